"""Paired comparisons at any time: two variants asked the same thing, as shadow traffic does.

The unit is the session, by the mean over its pairs, so that long sessions have one voice and
requests of one session need not be independent. Everything here is always valid: look when you
like. Rates are bounded twice, exactly and asymptotically, each at half of alpha, as in
`hedged_rates`; differences of unbounded values only asymptotically, from 100 sessions on.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from experiments.stats.bernoulli import rate_interval
from experiments.stats.comparison import check_alpha
from experiments.stats.errors import InvalidStatistic, TooFewUnits, ZeroVariance
from experiments.stats.moments import MeanStats
from experiments.stats.sequential import MIN_EVENTS_PER_OUTCOME, MIN_UNITS_PER_ARM, critical_value

DEFAULT_N_STAR = 1000.0
"""Sessions at which the asymptotic sequences are tightest if nothing is declared: a day or two of
copies at 10 % of a small site's traffic."""
_SLACK = 1e-9
"""Rounding allowed when shares are added up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareStats:
    """Sums of a value in [0, 1] with one value per session."""

    n: int
    """Sessions."""
    successes: float
    """Sum of the values."""
    sum_squares: float
    """Sum of the squared values."""

    def __post_init__(self) -> None:
        slack = _SLACK * max(1, self.n)
        if not -slack <= self.sum_squares <= self.successes + slack <= self.n + 2 * slack:
            raise InvalidStatistic(
                f"{self.n} values in [0, 1] cannot add up to {self.successes!r} with squares "
                f"{self.sum_squares!r}"
            )

    @classmethod
    def from_values(cls, values: Iterable[float]) -> Self:
        """Reduce values in [0, 1], one per session."""
        data = [float(value) for value in values]
        return cls(
            n=len(data), successes=math.fsum(data), sum_squares=math.fsum(x * x for x in data)
        )

    @property
    def estimate(self) -> float:
        """Mean of the values.

        Raises:
            TooFewUnits: If there is no session.
        """
        if self.n == 0:
            raise TooFewUnits("there is no session to take a mean of")
        return min(1.0, max(0.0, self.successes / self.n))

    @property
    def moments(self) -> MeanStats:
        """The same sums as those of a mean."""
        return MeanStats(n=self.n, sum=self.successes, sum_squares=self.sum_squares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with a confidence sequence at this look."""

    estimate: float
    lower: float
    upper: float
    method: str
    n: int
    """Sessions."""


def mean_interval(
    stats: MeanStats, *, alpha: float = 0.05, n_star: float = DEFAULT_N_STAR
) -> Interval:
    """Bound the mean of paired differences by the asymptotic confidence sequence.

    mean +- se * critical_value(n), with n sessions and the sample variance over sessions.

    Args:
        stats: One difference per session.
        alpha: Error rate over all looks.
        n_star: Sessions for which the sequence is tuned; fix it before the start.

    Raises:
        TooFewUnits: Below 100 sessions, where the sequence need not hold.
        ZeroVariance: If all sessions differ by the same.

    References:
        Waudby-Smith et al. (2024), arXiv:2103.06476v7, theorem 2.2 and eq. 9: the one-sample case.
    """
    if stats.n < MIN_UNITS_PER_ARM:
        raise TooFewUnits(
            f"a paired difference needs {MIN_UNITS_PER_ARM} sessions; there are {stats.n}"
        )
    if stats.variance <= 0:
        raise ZeroVariance("all sessions differ by the same amount, so there is no standard error")
    half = math.sqrt(stats.variance / stats.n) * critical_value(stats.n, alpha=alpha, n_star=n_star)
    middle = stats.estimate
    return Interval(
        estimate=middle,
        lower=middle - half,
        upper=middle + half,
        method="paired_asymptotic_cs",
        n=stats.n,
    )


def share_interval(
    stats: ShareStats, *, alpha: float = 0.05, n_star: float = DEFAULT_N_STAR
) -> Interval:
    """Bound the mean of a share, such as how often two variants agree within a session.

    The exact sequence for values in [0, 1] (`bernoulli.log_e_value`), which speaks from the first
    session, and the asymptotic one where it holds; what both allow, each at alpha / 2.

    Raises:
        TooFewUnits: If there is no session.
    """
    check_alpha(alpha)
    exact = rate_interval(stats, alpha=alpha / 2.0)
    lower, upper = _tightened(exact, stats.moments, _is_common(stats), alpha / 2.0, n_star)
    return Interval(
        estimate=stats.estimate, lower=lower, upper=upper, method="paired_share_hedged", n=stats.n
    )


def rate_difference(
    better: ShareStats,
    worse: ShareStats,
    differences: MeanStats,
    *,
    alpha: float = 0.05,
    n_star: float = DEFAULT_N_STAR,
) -> Interval:
    """Bound the difference of two paired rates.

    Only pairs that disagree tell anything, as in McNemar's test: the difference of the rates is the
    rate of one kind of disagreement minus that of the other. Each kind has an exact sequence at
    alpha / 4; the asymptotic sequence of the difference, where it holds, has alpha / 2.

    Args:
        better: Share of a session's pairs in which only the second variant had the event.
        worse: Share of its pairs in which only the first one had it.
        differences: Second minus first per session, `better - worse`.
        alpha: Error rate over all looks.
        n_star: Sessions for which the asymptotic sequence is tuned.

    Raises:
        TooFewUnits: If there is no session.
    """
    check_alpha(alpha)
    if not better.n == worse.n == differences.n:
        raise InvalidStatistic(
            f"the sums cover {better.n}, {worse.n} and {differences.n} sessions, not the same ones"
        )
    low_b, high_b = rate_interval(better, alpha=alpha / 4.0)
    low_w, high_w = rate_interval(worse, alpha=alpha / 4.0)
    exact = (low_b - high_w, high_b - low_w)
    common = _is_common(better) and _is_common(worse)
    lower, upper = _tightened(exact, differences, common, alpha / 2.0, n_star)
    return Interval(
        estimate=better.estimate - worse.estimate,
        lower=lower,
        upper=upper,
        method="paired_rates_hedged",
        n=better.n,
    )


def _is_common(stats: ShareStats) -> bool:
    """Whether event and non-event are frequent enough for the central limit theorem."""
    return min(stats.successes, stats.n - stats.successes) >= MIN_EVENTS_PER_OUTCOME


def _tightened(
    exact: tuple[float, float], stats: MeanStats, common: bool, alpha: float, n_star: float
) -> tuple[float, float]:
    """Return what the exact and the asymptotic sequence have in common."""
    if not common:
        return exact
    try:
        tight = mean_interval(stats, alpha=alpha, n_star=n_star)
    except (TooFewUnits, ZeroVariance):
        return exact
    lower, upper = max(exact[0], tight.lower), min(exact[1], tight.upper)
    # They contradict each other with probability below alpha; the exact one needs no theorem.
    return exact if lower > upper else (lower, upper)
