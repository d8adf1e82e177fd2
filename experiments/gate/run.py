"""A finished evaluation, checked before anything is judged by it."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from experiments.evaluation.predictions import Prediction
from experiments.evaluation.report import Report
from experiments.evaluation.report import read_run as read_folder
from experiments.gate.errors import AlteredModel, NotComparable

_SHOWN = 3
"""Ids named in a message before the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An evaluation of a model file that is complete and is what its report says."""

    report: Report
    sha256: str
    """Of the model file."""
    predictions: tuple[Prediction, ...]
    """Sorted by id."""

    @property
    def prior_sha256(self) -> str | None:
        """Of the intent prior that was added to the model's choices; None if none is known."""
        return self.report.target.prior_sha256


def read_run(folder: Path, role: str) -> Run:
    """Read a run folder.

    Args:
        folder: What `carril eval run --out` wrote.
        role: `candidate` or `champion`, for messages.

    Raises:
        BadInput: If a file is missing or broken, an id occurs twice, or the predictions are not
            those that the report was made from.
        NotComparable: If items of a suite are missing, or no identified model file was evaluated.
    """
    report, predictions = read_folder(folder)
    run = Run(
        report=report,
        sha256=_model_sha256(report, role),
        predictions=tuple(sorted(predictions, key=lambda item: item.id)),
    )
    _require_complete(run, role)
    return run


def require_unchanged(model: Path, run: Run) -> None:
    """Make sure that a model file is still the one that was evaluated.

    Raises:
        AlteredModel: If it is another one, or cannot be read.
    """
    try:
        with model.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AlteredModel(f"cannot read the model {str(model)!r}: {error.strerror}") from error
    if actual != run.sha256:
        raise AlteredModel(
            f"{str(model)!r} has SHA-256 {actual} now; the file that was evaluated had "
            f"{run.sha256}",
            "evaluate the file that would ship",
        )


def require_same_items(candidate: Run, champion: Run) -> None:
    """Make sure that two runs answered the same items of the same suites.

    Raises:
        NotComparable: Naming the suites or items that differ.
    """
    ours, theirs = candidate.report, champion.report
    if ours.suite_sha256 != theirs.suite_sha256 or ours.suites != theirs.suites:
        names = sorted(ours.suites.keys() | theirs.suites.keys())
        differing = [name for name in names if ours.suites.get(name) != theirs.suites.get(name)]
        raise NotComparable(
            "candidate and champion were evaluated on different suites: "
            f"{', '.join(differing) or 'the combined hashes differ'}",
            "evaluate both on the same suites",
        )
    left = {item.id for item in candidate.predictions}
    right = {item.id for item in champion.predictions}
    if left != right:
        raise NotComparable(
            f"{_named(right - left)} answered by the champion only, {_named(left - right)} by the "
            "candidate only",
            "evaluate both on all items",
        )
    for mine, other in zip(candidate.predictions, champion.predictions, strict=True):
        if _facts(mine) != _facts(other):
            raise NotComparable(
                f"item {mine.id!r} is {_facts(mine)} for the candidate and {_facts(other)} for "
                "the champion (suite, intent, group)",
                "evaluate both on the same suites",
            )


def _facts(item: Prediction) -> tuple[str, str | None, str]:
    return item.suite, item.intent, item.group


def _model_sha256(report: Report, role: str) -> str:
    target = report.target
    if target.kind == "baseline":
        raise NotComparable(
            f"the {role} {target.name!r} is a baseline; the gate judges model files",
            "evaluate a served model or a GGUF",
        )
    if target.sha256 is None:
        raise NotComparable(
            f"the report of the {role} {target.name!r} ({target.kind}) has no SHA-256, so nobody "
            "knows which file was measured",
            "evaluate a GGUF, or a served model that names its file",
        )
    return target.sha256


def _require_complete(run: Run, role: str) -> None:
    suites = run.report.suites
    per_suite = Counter(item.suite for item in run.predictions)
    unknown = sorted(per_suite.keys() - suites.keys())
    if unknown:
        raise NotComparable(f"the {role} has predictions of suites not in its report: {unknown}")
    for name, suite in suites.items():
        if per_suite[name] != suite.n:
            raise NotComparable(
                f"suite {name!r} has {suite.n} items, the {role} has predictions of "
                f"{per_suite[name]}",
                "let the evaluation finish",
            )


def _named(ids: set[str]) -> str:
    if not ids:
        return "no items"
    first = ", ".join(sorted(ids)[:_SHOWN])
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"{len(ids)} items ({first}{more})"
