"""Gathers what the rules need from the files of the home: registry, events, evaluations, drift."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, get_args

from experiments.evaluation.errors import BadInput
from experiments.evaluation.report import Report, read_report
from experiments.registry.errors import RegistryError
from experiments.registry.records import Alias, ModelVersion
from experiments.registry.store import Registry
from experiments.retraining.errors import BadRecord, UnknownModel
from experiments.retraining.history import read_history, retrain_home
from experiments.retraining.triggers import DriftLevel, LoopState

_ACCURACY = "intent_accuracy"
_UNDECIDED = "insufficient_data"
_MAX_REPORTS = 200
"""Evaluations looked at, newest first: a check also runs inside a request."""


class _Accuracy(NamedTuple):
    newest: float | None
    first: float | None


def gather(home: Path, *, model: str | None = None, drift: Path | None = None) -> LoopState:
    """Read the state of the loop.

    Args:
        home: `CARRIL_HOME`.
        model: Registered name; None where there is only one.
        drift: Drift report; `drift/latest.json` under the home if None and there.

    Raises:
        BadRecord: If a record cannot be used.
        UnknownModel: If there is no such model, or several and none is named.
    """
    champion = _champion(Registry(home / "registry"), model)
    history = read_history(home)
    last = history[-1].at if history else None
    accuracy = _Accuracy(None, None)
    if champion is not None:
        accuracy = _evaluated(home / "evaluations", champion.sha256)
    return LoopState(
        model=model if champion is None else champion.name,
        version=None if champion is None else champion.version,
        n_new_feedback=count_rated(home / "events" / "events.db", since=last),
        trained_at=None if champion is None else champion.created_at,
        accuracy=accuracy.newest,
        first_accuracy=accuracy.first,
        new_dataset=_unused_dataset(home, {entry.dataset_sha256 for entry in history}),
        drift=_drift(drift or home / "drift" / "latest.json", must_exist=drift is not None),
        last_submitted_at=last,
    )


def count_rated(events: Path, *, since: datetime | None) -> int | None:
    """Return how many answers got feedback after a moment; None without an event file.

    Raises:
        BadRecord: If the file cannot be read.
    """
    if not events.is_file():
        return None
    after = 0.0 if since is None else since.timestamp()
    try:
        db = sqlite3.connect(f"{events.absolute().as_uri()}?mode=ro", uri=True)
        try:
            row = db.execute(
                "SELECT COUNT(DISTINCT target) FROM feedback "
                "WHERE level = 'inference' AND received_at > ?",
                (after,),
            ).fetchone()
        finally:
            db.close()
    except sqlite3.Error as error:
        if "no such table" in str(error):
            return 0  # written before there was feedback
        raise BadRecord(f"cannot read the events in {str(events)!r}: {error}") from error
    return int(row[0])


def _champion(registry: Registry, model: str | None) -> ModelVersion | None:
    try:
        standings = registry.standings()
        if model is None:
            if len(standings) > 1:
                raise UnknownModel(
                    f"several models are registered: {sorted(standings)}", "name one"
                )
            model = next(iter(standings), None)
        if model is None:
            return None
        if model not in standings:
            raise UnknownModel(f"unknown model {model!r}; registered: {sorted(standings)}")
        ref = standings[model].aliases.get(Alias.CHAMPION)
        return None if ref is None else registry.version(model, ref.version)
    except RegistryError as error:
        raise BadRecord(error.message, error.fix) from error


def _evaluated(folder: Path, sha256: str) -> _Accuracy:
    """Return the accuracy in the newest evaluation of a file, and in the first on its suites."""
    reports = sorted(_reports(folder, sha256), key=lambda report: report.created_at)
    if not reports:
        return _Accuracy(None, None)
    newest = reports[-1]
    same = [report for report in reports[:-1] if report.suite_sha256 == newest.suite_sha256]
    return _Accuracy(_value(newest), _value(same[0]) if same else None)


def _reports(folder: Path, sha256: str) -> Iterator[Report]:
    paths = sorted(folder.glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    for path in paths[-_MAX_REPORTS:]:
        try:
            report = read_report(path)
        except BadInput:
            continue  # of another version; its own command says what is wrong with it
        if report.target.sha256 == sha256 and _value(report) is not None:
            yield report


def _value(report: Report) -> float | None:
    found = [d.value for d in report.dimensions if d.name == _ACCURACY]
    return found[0] if found else report.metrics.get(_ACCURACY)


def _unused_dataset(home: Path, used: set[str]) -> str | None:
    """Return the newest prepared dataset that was never submitted."""
    folders = sorted((retrain_home(home) / "datasets").glob("*/manifest.json"))
    for path in reversed(folders):
        try:
            manifest = json.loads(path.read_bytes())
            if manifest["sha256"] not in used:
                return path.parent.name
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRecord(f"cannot use the manifest {str(path)!r}: {error}") from error
    return None


def _drift(path: Path, *, must_exist: bool) -> DriftLevel | None:
    """Read the level of a drift report: ok, warning, critical; not knowing is None."""
    if not must_exist and not path.exists():
        return None
    try:
        level = json.loads(path.read_bytes())["level"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRecord(f"{str(path)!r} is no drift report: {error!r}") from error
    if level == _UNDECIDED:
        return None
    for known in get_args(DriftLevel):
        if str(level).lower() == known:
            result: DriftLevel = known
            return result
    raise BadRecord(f"{str(path)!r} has level {level!r}; allowed: {get_args(DriftLevel)}")
