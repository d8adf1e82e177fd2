"""A feedback metric per variant: every unit counts once, by the mean of its votes.

Sessions give many votes or none, so votes are not independent; sessions are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.stats.comparison import Comparison, Effect
from experiments.stats.distributions import t_ppf
from experiments.stats.effects import estimate_effect
from experiments.stats.errors import StatisticsError
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.proportions import Interval, wilson_interval
from experiments.stats.sequential import check_burn_in, confidence_sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A metric in one variant."""

    variant: str
    n_units: int
    n_votes: int
    estimate: float
    interval: Interval | None
    """For one look: Wilson's if every unit says yes or no, else Student's. None for one unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A variant against control. Always valid: looking often costs no error."""

    variant: str
    control: str
    comparison: Comparison | None
    refusal: str | None
    """Why there is no comparison."""


class UnitVotes:
    """The votes of the units of one variant."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, unit: str, value: float) -> None:
        """Add a vote of a unit."""
        self._sums[unit] = self._sums.get(unit, 0.0) + value
        self._counts[unit] = self._counts.get(unit, 0) + 1

    @property
    def n_votes(self) -> int:
        """Votes of all units."""
        return sum(self._counts.values())

    def values(self) -> list[float]:
        """Return one value per unit."""
        return [total / self._counts[unit] for unit, total in self._sums.items()]


def arm(variant: str, votes: UnitVotes, *, alpha: float = 0.05) -> Arm:
    """Describe a metric in one variant.

    Args:
        variant: Its name.
        votes: At least one.
        alpha: Two-sided error rate of the interval.
    """
    values = votes.values()
    stats = MeanStats.from_values(values)
    interval: Interval | None = None
    rate = _rate(values)
    if rate is not None:
        interval = wilson_interval(rate, alpha=alpha)
    elif stats.n > 1:
        half = -t_ppf(alpha / 2, stats.n - 1) * math.sqrt(stats.variance / stats.n)
        interval = Interval(stats.estimate - half, stats.estimate + half)
    return Arm(
        variant=variant,
        n_units=stats.n,
        n_votes=votes.n_votes,
        estimate=stats.estimate,
        interval=interval,
    )


def differences(
    arms: Mapping[str, UnitVotes], *, control: str, alpha: float = 0.05
) -> list[Difference]:
    """Compare every variant with control, by an asymptotic confidence sequence.

    Args:
        arms: Votes by variant.
        control: The reference; without votes there is nothing to compare.
        alpha: Error rate over all looks together.
    """
    if control not in arms:
        return []
    return [
        _difference(arms[control].values(), arms[variant].values(), variant, control, alpha)
        for variant in sorted(arms)
        if variant != control
    ]


def _difference(
    reference: Sequence[float], treated: Sequence[float], variant: str, control: str, alpha: float
) -> Difference:
    comparison: Comparison | None = None
    refusal: str | None = None
    try:
        check_burn_in(len(reference), len(treated))
        effect = estimate_effect(
            MeanStats.from_values(reference), MeanStats.from_values(treated), Effect.ABSOLUTE
        )
        comparison = confidence_sequence(effect, alpha=alpha)
    except StatisticsError as error:
        refusal = str(error)
    return Difference(variant=variant, control=control, comparison=comparison, refusal=refusal)


def _rate(values: Sequence[float]) -> ProportionStats | None:
    """Return the counts if every unit says yes or no."""
    if not all(value in (0.0, 1.0) for value in values):
        return None
    return ProportionStats(n=len(values), successes=int(sum(values)))
