"""`carril loop`: from data to production and back, in one command, under traffic."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import typer

from cluster.cli import deploy as deploy_command
from cluster.cli.console import Step, err, note, out, print_json, step, warn
from cluster.connection import Connection, resolve
from cluster.errors import CommandError, ExitCode, infrastructure
from cluster.home import carril_home
from cluster.jobs.api import JobsApi
from cluster.jobs.submission import Submitter
from cluster.loop.config import LoopConfig, load_loop_config
from cluster.loop.run import GateSaysNo, Loop, Surroundings
from cluster.loop.state import StepResult
from cluster.loop.traffic import Traffic, TrafficReport
from cluster.validate import load_serve_config


def run(
    config_path: Path, serve_config: Path, *, timeout_s: float, api_key: str | None, as_json: bool
) -> None:
    """Do one turn of the loop on the running server, or go on with one that was interrupted.

    Raises:
        CommandError: With the step that failed, or that requests failed.
    """
    config = load_loop_config(config_path)
    connection = resolve(guess=False)
    if connection.record is None or not connection.record.is_alive():
        raise infrastructure("no server of this CARRIL_HOME runs", "start one with: carril up")
    served = load_serve_config(serve_config)
    names = [name for gateway in served.gateways.values() for name in gateway.models]
    if not names:
        raise CommandError(f"{serve_config} serves no model", code=ExitCode.USAGE)
    started_s = time.monotonic()
    key = api_key or os.environ.get("CARRIL_API_KEY")
    shown: list[tuple[StepResult, bool]] = []

    def on_step(result: StepResult, earlier: bool) -> None:
        shown.append((result, earlier))
        if not as_json:
            took = "before" if earlier else f"{result.took_s:.0f} s"
            line = f"{result.name:14} {took:>7}  {result.artefact}"
            out.print(line, markup=False, highlight=False, soft_wrap=True)

    failure: CommandError | None = None
    with (
        JobsApi(connection.dashboard_url, token=connection.token) as api,
        Traffic(connection.http_url, names[0], config.traffic, api_key=key) as traffic,
        step("loop") as progress,
    ):
        around = _surroundings(config, connection, serve_config, api, timeout_s=timeout_s)
        loop = Loop(config, around, say=_sayer(progress), on_step=on_step)
        try:
            loop.run()
        except CommandError as error:
            failure = error
    wall_s = round(time.monotonic() - started_s, 1)
    report = traffic.report
    if as_json:
        steps = [{**result.model_dump(), "earlier": earlier} for result, earlier in shown]
        ok = failure is None and report.n_failures == 0
        print_json({"ok": ok, "wall_s": wall_s, "steps": steps, "traffic": report.as_json()})
    _tell_traffic(report, wall_s)
    if isinstance(failure, GateSaysNo):
        from cluster.cli.console import fail

        fail(failure.message, failure.fix)
        raise typer.Exit(failure.exit_code)
    if failure is not None:
        raise failure
    if report.n_failures:
        raise CommandError(
            f"{report.n_failures} of {report.n_requests} requests failed: {report.failures[0]}"
        )


def _surroundings(
    config: LoopConfig,
    connection: Connection,
    serve_config: Path,
    api: JobsApi,
    *,
    timeout_s: float,
) -> Surroundings:
    home = carril_home()
    assert connection.record is not None  # noqa: S101 (checked by the caller)

    def deploy(path: Path) -> None:
        # The command is the consent; no unit moves: the challenger gets no traffic.
        deploy_command.run(path, yes=True, timeout_s=timeout_s, address=None, url=None, plan_to=err)

    return Surroundings(
        home=home,
        folder=home / "loops" / f"{config.model}-{config.sha256()[:12]}",
        working_dir=Path(connection.record.working_dir),
        serve_config=serve_config.absolute(),
        http_port=int(connection.http_url.rsplit(":", 1)[1]),
        api=api,
        submitter=Submitter(api, connection, home, note),
        deploy=deploy,
    )


def _sayer(progress: Step) -> Callable[[str], None]:
    """Return what shows the newest line of a step, without the time that a log puts before it."""

    def say(line: str) -> None:
        stamp, _, rest = line.partition("Z ")
        progress.update(rest if rest and len(stamp) == len("2026-01-01T00:00:00") else line)

    return say


def _tell_traffic(report: TrafficReport, wall_s: float) -> None:
    variants = ", ".join(f"{count} by {name}" for name, count in report.variants.most_common())
    note(
        f"{wall_s:.0f} s; {report.n_requests} requests meanwhile, {report.n_failures} failed "
        f"({variants}; longest {report.longest_s:.1f} s)"
    )
    for failure in report.failures:
        warn(failure)
