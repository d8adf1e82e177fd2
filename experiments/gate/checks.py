"""One finding of the gate: a number, its bounds, the limit, and what follows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Of one check, and of the whole gate."""

    PASS = "PASS"  # noqa: S105 (a verdict, no password)
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class CheckKind(StrEnum):
    """What a check protects from."""

    FLOOR = "floor"
    """A model that is not good enough, whoever the champion is."""
    PRIMARY = "primary"
    """A promotion that gains nothing."""
    MARGIN = "margin"
    """Harm on one metric, paid for by another."""
    SLICE = "slice"
    """Harm to some customers, hidden in the average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A finding."""

    kind: CheckKind
    name: str
    outcome: Outcome
    detail: str
    n: int
    value: float | None = None
    """Of the candidate; in the metric's own direction."""
    champion: float | None = None
    lower: float | None = None
    """One-sided bound at the policy's alpha; of the value for a floor, else of the difference."""
    upper: float | None = None
    threshold: float | None = None
    direction: str | None = None
    better: int | None = None
    """Items that only the candidate got right."""
    worse: int | None = None
    """Items that only the champion got right."""
    p_value: float | None = None
    p_adjusted: float | None = None
    """After Holm over the family."""
    n_needed: int | None = None
    """Items that would probably decide; None where no number would, or it is decided."""

    def to_dict(self) -> dict[str, object]:
        """Return the check for JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return FAIL if anything failed, else INCONCLUSIVE if anything is open, else PASS."""
    for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    return Outcome.PASS


def _plain(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        # JSON knows no infinity; an open end is null.
        return value if abs(value) != float("inf") else None
    return value
