"""What several rounds of one measurement say: the middle, the ends, and how many there were."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and their least and largest value."""

    median: float
    min: float
    max: float
    n: int
    unit: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in `latest.json`."""
        return asdict(self)


def spread(values: Iterable[float], unit: str = "") -> Spread:
    """Summarise the values of all rounds.

    Raises:
        ValueError: If there are none.
    """
    known = sorted(values)
    if not known:
        raise ValueError("no round has a value, so there is nothing to summarise")
    return Spread(
        median=_rounded(statistics.median(known)),
        min=_rounded(known[0]),
        max=_rounded(known[-1]),
        n=len(known),
        unit=unit,
    )


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Summarise the ratio of each round, not of the medians: a slow moment hits both sides.

    Raises:
        ValueError: If one side has more rounds, or theirs has a zero.
    """
    return spread(a / b for a, b in zip(ours, _not_zero(theirs), strict=True))


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie, by nearest rank.

    Raises:
        ValueError: If there are no values.
    """
    known = sorted(values)
    if not known:
        raise ValueError(f"no values, so there is no {share:.0%} percentile")
    return known[min(len(known) - 1, int(share * len(known)))]


def _not_zero(values: Sequence[float]) -> Sequence[float]:
    if any(value == 0 for value in values):
        raise ValueError(f"a peer measured zero ({list(values)}), so there is no ratio to it")
    return values


def _rounded(value: float) -> float:
    """Return four digits that count: no timing has more."""
    return float(f"{value:.4g}")
