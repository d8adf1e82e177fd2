"""Watch for drift as a job: `python -m experiments.jobs.drift`, or with `--once` from cron.

On a cluster: `carril jobs submit drift`. It takes no trainer and no CPU of the cluster while it
waits. A check that cannot be made is told and tried again in the next period; what a check found is
in CARRIL_HOME/drift (`experiments.drift.run`).
"""

import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from experiments.alerts.delivery import unreachable
from experiments.analysis.sources import event_source
from experiments.drift.errors import BadInput, DriftError, EventsUnavailable
from experiments.drift.levels import Level
from experiments.drift.policy import LONGEST_CHECK_H, DriftPolicy, read_policy
from experiments.drift.run import Checked, run_check
from experiments.jobs.errors import JobExit
from experiments.jobs.record import home_dir

logger = logging.getLogger(__name__)

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_EXIT_INCONCLUSIVE = 5
_DEFAULT_CONFIG = Path("drift.yaml")


def seconds(text: str) -> float:
    """Return the seconds of a duration such as `6h`, `90m` or `1.5d`.

    Raises:
        BadInput: If it is none, not above 0, or longer than a year.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    value = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if value <= 0:
        raise BadInput(f"{text!r} is no duration", "write 6h, 30m or 1d")
    if value > LONGEST_CHECK_H * 3600.0:
        raise BadInput(f"{text!r} is longer than a year", "write 6h, 30m or 1d")
    return value


def command(
    every: Annotated[
        str | None, typer.Option(help="Time between checks, such as 90m; 6 hours.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Check once and end.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="Thresholds and alerts; ./drift.yaml where there is one.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="Baseline file.")] = None,
    events: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="Event file, or postgresql:// address.")
    ] = None,
) -> None:
    """Check for drift, again and again; write reports and send alerts.

    With --once it exits as `carril drift check` does, without it goes on until it is told to end.
    """
    try:
        if once and every is not None:
            raise BadInput("--once and --every exclude each other", "give one of them, or none")
        if config is None and _DEFAULT_CONFIG.is_file():
            config = _DEFAULT_CONFIG
        policy = read_policy(config)
        period_s = policy.check_every_h * 3600.0 if every is None else seconds(every)
        if once:
            raise typer.Exit(_exit_code(_check(policy, baseline, events)))
    except DriftError as error:
        typer.echo(f"error: {error}", err=True)
        broken = isinstance(error, EventsUnavailable)
        raise typer.Exit(int(JobExit.INFRASTRUCTURE if broken else JobExit.USAGE)) from error
    # The error budget is for 30 days, so it depends on how many checks those have.
    _watch(
        policy.model_copy(update={"check_every_h": period_s / 3600.0}), period_s, baseline, events
    )


def _watch(policy: DriftPolicy, period_s: float, baseline: Path | None, events: str | None) -> None:
    typer.echo(f"checking for drift every {period_s / 3600.0:.3g} h")
    for channel in unreachable(policy.alerts):
        typer.echo(f"  nobody is told by {channel.channel}: {channel.error}", err=True)
    with _told_to_end() as end:
        start, n = time.monotonic(), 0
        while not end.is_set():
            try:
                _check(policy, baseline, events)
            except DriftError as error:
                typer.echo(f"no check: {error}", err=True)
            except Exception:
                logger.exception("the check failed")  # the next one may work
            # A check that took longer than a period skips the next, they do not pile up.
            n = int((time.monotonic() - start) // period_s) + 1
            end.wait(max(0.0, start + n * period_s - time.monotonic()))
    typer.echo("ended on request", err=True)


def _check(policy: DriftPolicy, baseline: Path | None, events: str | None) -> Checked:
    done = run_check(
        home_dir(),
        policy,
        baseline_path=baseline,
        events=None if events is None else event_source(events),
    )
    document = done.document
    typer.echo(
        f"{document['checked_at']} {done.level.value}: findings {len(document['findings'])}, "
        f"new {len(document['changes'])}"
    )
    for item in document["findings"]:
        typer.echo(f"  {item['severity']} {item['variant']}: {item['title']}")
    for delivery in done.deliveries:
        outcome = "delivered" if delivery.delivered else f"not delivered: {delivery.error}"
        typer.echo(f"  alert to {delivery.channel} {outcome}", err=True)
    retrain = document["retrain"]
    if retrain is not None:
        typer.echo(f"  retraining due: {retrain['due']}; carril retrain check")
    return done


def _exit_code(done: Checked) -> int:
    if done.level is Level.INSUFFICIENT_DATA:
        return _EXIT_INCONCLUSIVE
    return int(JobExit.FAILED if done.level is Level.CRITICAL else JobExit.OK)


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """Give the event that SIGTERM and SIGINT set; a check under way is finished first."""
    end = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        end.set()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the job from the command line."""
    typer.run(command)


if __name__ == "__main__":
    main()
