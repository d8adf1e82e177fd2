"""Quantiles (p50, p90, p95, p99) by the outer confidence interval, clusters included.

The variance of a sample quantile needs the density at the quantile. The outer interval avoids
estimating it: two order statistics that bracket the quantile are read off in the same pass, and
their distance is turned back into a standard error. Requests of one session are correlated, which
a second, cheap ratio-metric pass corrects.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.distributions import norm_isf
from experiments.stats.errors import InvalidStatistic, TooFewUnits, ZeroVariance
from experiments.stats.moments import check_count, check_finite
from experiments.stats.ratio import RatioStats

OUTER_ALPHA = 0.05
"""Level of the order statistics that bracket the quantile, whatever alpha the comparison has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileStats:
    """A sample quantile with the order statistics around it.

    Quantiles of two partitions do not add; unlike the other statistics there is no `+`.
    """

    n_observations: int
    """Observations (requests) the quantile is taken over."""
    level: float
    """Quantile level nu in (0, 1), 0.95 for p95."""
    value: float
    """Sample quantile."""
    lower: float
    """Order statistic at rank n (nu - z sqrt(nu (1 - nu) / n)), z = 1.96."""
    upper: float
    """Order statistic at rank n (nu + z sqrt(nu (1 - nu) / n))."""
    n_ranks: int | None = None
    """Sample size for which the ranks were computed, when it is not `n_observations` (engines that
    round it up to a grid, "nstar"); the variance is then scaled by n_ranks / n * (n - 1) / n."""
    clusters: RatioStats | None = None
    """Per session: numerator = observations at or below `value`, denominator = observations. None
    if every observation is its own unit."""

    def __post_init__(self) -> None:
        check_count("n_observations", self.n_observations)
        if self.n_ranks is not None:
            check_count("n_ranks", self.n_ranks)
        check_finite(value=self.value, lower=self.lower, upper=self.upper)
        if not 0.0 < self.level < 1.0:
            raise InvalidStatistic(f"level is {self.level!r}; allowed: above 0 and below 1")
        if not self.lower <= self.value <= self.upper:
            raise InvalidStatistic(
                f"value {self.value!r} is outside [lower, upper] = [{self.lower!r}, {self.upper!r}]"
            )

    @classmethod
    def from_values(
        cls, values: ArrayLike, level: float, *, sessions: Sequence[Hashable] | None = None
    ) -> "QuantileStats":
        """Reduce raw observations.

        Ranks are ceil(n nu) for the quantile, floor and ceil of the two outer ranks (the outer,
        conservative rounding), counted from 1.

        Args:
            values: Observations, shape (n,), finite.
            level: Quantile level in (0, 1).
            sessions: Session of each observation; None if observations are independent.

        Raises:
            TooFewUnits: If an outer rank falls outside the sample.
        """
        data = np.asarray(values, dtype=np.float64).ravel()
        n = int(data.size)
        need = minimum_observations(level)
        if n < need:
            raise TooFewUnits(f"a p{level * 100:g} needs {need} observations, this arm has {n}")
        ordered = np.sort(data)
        half = norm_isf(OUTER_ALPHA / 2.0) * math.sqrt(level * (1.0 - level) / n)
        low = max(1, math.floor(n * (level - half)))
        high = min(n, math.ceil(n * (level + half)))
        value = float(ordered[math.ceil(n * level) - 1])
        clusters = None
        if sessions is not None:
            totals: dict[Hashable, tuple[float, float]] = {}
            for session, hit in zip(sessions, data <= value, strict=True):
                x, y = totals.get(session, (0.0, 0.0))
                totals[session] = (x + float(hit), y + 1.0)
            clusters = RatioStats.from_pairs(totals.values())
        return cls(
            n_observations=n,
            level=level,
            value=value,
            lower=float(ordered[low - 1]),
            upper=float(ordered[high - 1]),
            clusters=clusters,
        )

    @property
    def n(self) -> int:
        """Analysis units: sessions if clustered, else observations."""
        return self.n_observations if self.clusters is None else self.clusters.n

    @property
    def estimate(self) -> float:
        """The sample quantile."""
        return self.value

    @property
    def variance(self) -> float:
        """Variance of the quantile times `n`.

        iid: ((U - L) / (2 z))^2, z = 1.96. Clustered: times Var_cluster(Ibar) / (nu (1 - nu) / N),
        I = 1{Y <= q}, N observations, Var_cluster by the delta method over sessions: the quantile
        inherits the design effect of the share below it.

        References:
            Deng, Knoblich, Lu (2018), arXiv:1803.06336, section 4.2; Yao, Li, Lu (2024),
            arXiv:2401.14549, algorithm 1.

        Raises:
            TooFewUnits: If n does not exceed z^2 nu / (1 - nu) (73 observations for p95, 381 for
                p99): an outer rank would lie beyond the largest observation.
            ZeroVariance: If both order statistics coincide.
        """
        n = self.n_observations
        need = minimum_observations(self.level)
        if n < need:
            raise TooFewUnits(
                f"a p{self.level * 100:g} needs {need} observations, this arm has {n}"
            )
        if self.upper == self.lower:
            raise ZeroVariance(
                f"the order statistics around p{self.level * 100:g} are both {self.lower!r}: too "
                "many ties for a standard error; log more precisely"
            )
        squared = ((self.upper - self.lower) / (2.0 * norm_isf(OUTER_ALPHA / 2.0))) ** 2
        if self.n_ranks is not None:
            squared *= self.n_ranks / n * (n - 1) / n
        if self.clusters is not None:
            below = self.clusters.variance / self.clusters.n
            squared *= below / (self.level * (1.0 - self.level) / n)
        return squared * self.n


def minimum_observations(level: float) -> int:
    """Return the fewest observations for which both outer ranks lie inside the sample."""
    z = norm_isf(OUTER_ALPHA / 2.0)
    odds = max(level / (1.0 - level), (1.0 - level) / level)
    return math.floor(z * z * odds) + 1
