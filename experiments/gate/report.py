"""What the gate writes: `gate.json`, on which a promotion rests, and the same for readers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from experiments.gate.checks import Check, CheckKind, Outcome
from experiments.gate.policy import GatePolicy
from experiments.registry.canonical import canonical_sha256
from experiments.whole_file import write_whole

SCHEMA_VERSION = 1


class Judged(NamedTuple):
    """A model that was measured."""

    name: str
    version: str | None
    sha256: str
    prior_sha256: str | None
    """Of the intent prior that was added to its choices; None if none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """A verdict with all that led to it."""

    verdict: Outcome
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    """What a reader should know beside them; no part of the verdict."""
    checks: tuple[Check, ...]
    candidate: Judged
    champion: Judged | None
    suite_sha256: str
    policy: GatePolicy
    n_slices_too_small: int
    """Slices with fewer items than the policy tests."""
    created_at: datetime

    def to_document(self) -> dict[str, object]:
        """Return the content of `gate.json`, with the hash of its own canonical form."""
        document: dict[str, object] = {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "checks": [check.to_dict() for check in self.checks],
            "candidate": self.candidate._asdict(),
            "champion": None if self.champion is None else self.champion._asdict(),
            "suite_sha256": self.suite_sha256,
            "policy": self.policy.model_dump(mode="json"),
            "n_slices_too_small": self.n_slices_too_small,
            "created_at": self.created_at.isoformat(),
        }
        return document | {"report_sha256": canonical_sha256(document)}

    def to_json(self) -> str:
        """Return `gate.json`."""
        text = json.dumps(self.to_document(), ensure_ascii=False, allow_nan=False, indent=2)
        return text + "\n"

    def to_markdown(self) -> str:
        """Return the report for people: verdict, reasons, checks by kind."""
        against = "no champion" if self.champion is None else f"champion {_label(self.champion)}"
        hypothesis = self.policy.hypothesis.value
        if self.policy.reason:
            hypothesis += f" ({self.policy.reason})"
        lines = [
            f"# Gate: {self.verdict.value}",
            "",
            f"Candidate {_label(self.candidate)} against {against}. Hypothesis: {hypothesis}. "
            f"One-sided alpha {self.policy.alpha:g}, suites `{self.suite_sha256[:12]}`.",
            "",
            *(f"- {reason}" for reason in (*self.reasons, *self.notes)),
            "",
        ]
        for kind, title in _TITLES.items():
            checks = [check for check in self.checks if check.kind is kind]
            if checks:
                lines += [f"## {title}", "", *_table(checks), ""]
        if self.n_slices_too_small:
            smallest = self.policy.min_slice_items
            lines += [f"{self.n_slices_too_small} slices with fewer than {smallest} items.", ""]
        return "\n".join(lines)


_TITLES = {
    CheckKind.FLOOR: "Floors",
    CheckKind.PRIMARY: "Better than the champion",
    CheckKind.MARGIN: "Not worse than the champion",
    CheckKind.SLICE: "Slices",
}


def write_report(report: GateReport, path: Path) -> Path:
    """Write `gate.json` and the Markdown beside it, each whole or not at all.

    Returns:
        Where the Markdown is.
    """
    markdown = path.with_suffix(".md")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(markdown, report.to_markdown().encode())
    write_whole(path, report.to_json().encode())
    return markdown


def _label(model: Judged) -> str:
    version = "" if model.version is None else f" {model.version}"
    prior = "" if model.prior_sha256 is None else f", intent prior `{model.prior_sha256[:12]}`"
    return f"{model.name}{version} (`{model.sha256[:12]}`{prior})"


def _table(checks: Sequence[Check]) -> list[str]:
    rows = [f"| {check.name} | {check.outcome.value} | {check.detail} |" for check in checks]
    return ["| check | outcome | detail |", "| --- | --- | --- |", *rows]
