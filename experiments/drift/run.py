"""A check with its files: state, reports, history, alerts, and the look at retraining.

CARRIL_HOME/drift/
    baseline.json     the reference
    state.json        open findings and alerts that wait to be delivered
    latest.json .md   the last report; `carril retrain check` reads its level
    reports/          all reports
    history.jsonl     one line per check
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from experiments.alerts.alert import Alert
from experiments.alerts.config import AlertLevel
from experiments.alerts.delivery import Delivery, deliver, wants
from experiments.drift.baseline import Definitions, read_baseline, write_text
from experiments.drift.check import Memory, check
from experiments.drift.errors import BadInput
from experiments.drift.levels import Level
from experiments.drift.policy import DriftPolicy
from experiments.drift.report import alert_of, to_document, to_markdown
from experiments.drift.source import read_traffic
from experiments.home import event_file

SCHEMA_VERSION = 1
_MAX_PENDING = 200
_MAX_PENDING_AGE_S = 3 * 86_400.0


class Pending(BaseModel):
    """An alert that a channel has not taken yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: str
    alert: Alert
    since: float


class State(BaseModel):
    """What is remembered between checks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    checked_at: float = 0.0
    """Time of the last check; one of an earlier moment looks back and changes nothing."""
    memory: Memory | None = None
    pending: tuple[Pending, ...] = ()


class Checked(NamedTuple):
    """What a check did."""

    level: Level
    document: dict[str, Any]
    deliveries: tuple[Delivery, ...]


def drift_home(home: Path) -> Path:
    """Return where drift keeps its files, below `CARRIL_HOME`."""
    return home / "drift"


def run_check(
    home: Path,
    policy: DriftPolicy,
    *,
    baseline_path: Path | None = None,
    events: Path | str | None = None,
    now: float | None = None,
    alert: bool = True,
    environ: Mapping[str, str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Checked:
    """Check now, write everything down, tell people what is new.

    Args:
        home: `CARRIL_HOME`.
        policy: Thresholds and channels.
        baseline_path: The baseline; the one of the home by default.
        events: The event file, or as a text the address of the central database; the file of the
            home by default.
        now: End of the windows, seconds since the epoch; the clock by default.
        alert: Whether to send alerts.
        environ: Has addresses and secrets of channels; the process's by default.
        sleep: Waits so many seconds between attempts.

    Raises:
        DriftError: If the baseline or the events cannot be used.
    """
    folder = drift_home(home)
    baseline = read_baseline(baseline_path or folder / "baseline.json")
    if baseline.definitions != Definitions.of(policy):
        raise BadInput(
            f"the baseline counts by {baseline.definitions.model_dump()}, the policy by "
            f"{Definitions.of(policy).model_dump()}",
            "make the baseline again: carril drift baseline",
        )
    source = events or event_file(home)
    at = time.time() if now is None else now
    with _one_at_a_time(folder):
        state = _read_state(folder / "state.json")
        looks_back = at < state.checked_at
        result = check(
            baseline,
            lambda since, until: read_traffic(source, policy, since=since, until=until),
            None if looks_back else state.memory,
            policy,
            now=at,
        )
        document = to_document(result, baseline, policy)
        if looks_back:
            document["notes"].append("before the last check: nothing is remembered, nobody is told")
            return Checked(result.level, document, ())
        _write_report(folder, document)
        if result.level is Level.CRITICAL:
            document["retrain"] = _retraining(home)
            _write_report(folder, document)
        news = alert_of(result, policy) if alert else None
        pending = _outbox(state.pending, news, policy, at)
        # First written down, then sent: a crash repeats an alert, it does not lose one.
        state = State(checked_at=at, memory=result.memory, pending=pending)
        write_text(folder / "state.json", state.model_dump_json(indent=2) + "\n")
        deliveries = _send(pending if alert else (), policy, environ, sleep)
        delivered = {n for n, done in enumerate(deliveries) if done.delivered}
        left = tuple(item for n, item in enumerate(pending) if n not in delivered)
        state = State(checked_at=at, memory=result.memory, pending=left)
        write_text(folder / "state.json", state.model_dump_json(indent=2) + "\n")
        _append_history(folder / "history.jsonl", document, deliveries)
    return Checked(result.level, document, deliveries)


def _outbox(
    waiting: tuple[Pending, ...],
    news: tuple[Alert, AlertLevel] | None,
    policy: DriftPolicy,
    now: float,
) -> tuple[Pending, ...]:
    known = {channel.name for channel in policy.alerts.channels}
    kept = [p for p in waiting if p.channel in known and now - p.since <= _MAX_PENDING_AGE_S]
    if news is not None:
        alert, level = news
        kept += [
            Pending(channel=channel.name, alert=alert, since=now)
            for channel in policy.alerts.channels
            if wants(channel, level)
        ]
    return tuple(kept[-_MAX_PENDING:])


def _send(
    pending: tuple[Pending, ...],
    policy: DriftPolicy,
    environ: Mapping[str, str] | None,
    sleep: Callable[[float], None],
) -> tuple[Delivery, ...]:
    import os

    channels = {channel.name: channel for channel in policy.alerts.channels}
    return tuple(
        deliver(
            item.alert,
            channels[item.channel],
            policy.alerts,
            environ=os.environ if environ is None else environ,
            sleep=sleep,
        )
        for item in pending
    )


def _retraining(home: Path) -> dict[str, Any]:
    """Return what `carril retrain check` says to the report that was just written."""
    from experiments.retraining.errors import RetrainingError
    from experiments.retraining.state import gather
    from experiments.retraining.triggers import TriggerPolicy
    from experiments.retraining.triggers import check as apply_rules

    try:
        state = gather(home)
    except RetrainingError as error:
        return {"due": None, "reasons": [], "error": str(error)}
    return apply_rules(state, TriggerPolicy(), now=datetime.now(UTC)).to_document()


def _write_report(folder: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    markdown = to_markdown(document)
    stamp = document["checked_at"].replace(":", "").replace("+0000", "Z").replace("-", "")
    for name in (f"reports/{stamp}", "latest"):
        write_text(folder / f"{name}.json", text)
        write_text(folder / f"{name}.md", markdown)


def _append_history(path: Path, document: dict[str, Any], deliveries: tuple[Delivery, ...]) -> None:
    from experiments.retraining.history import append_line

    line = {
        "schema_version": SCHEMA_VERSION,
        "checked_at": document["checked_at"],
        "level": document["level"],
        "baseline_sha256": document["baseline"]["sha256"],
        "variants": {
            name: {
                "level": variant["level"],
                "effects": {
                    key: item["slow"]["effect"] for key, item in variant["signals"].items()
                },
                "performance": variant["performance"],
            }
            for name, variant in document["variants"].items()
        },
        "findings": len(document["findings"]),
        "changes": document["changes"],
        "alerts": [{"channel": d.channel, "delivered": d.delivered} for d in deliveries],
    }
    append_line(path, json.dumps(line, ensure_ascii=False, allow_nan=False))


def _read_state(path: Path) -> State:
    try:
        return TypeAdapter(State).validate_json(path.read_bytes())
    except FileNotFoundError:
        return State()
    except (OSError, ValidationError) as error:
        text = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{path} cannot be used: {text}", "remove it to start without open findings"
        ) from error


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of the state: a scheduled check and one by hand must not mix."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
