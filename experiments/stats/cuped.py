"""CUPED: a metric adjusted by what the same unit did before the experiment.

Both arms must be adjusted with the same theta, so an arm alone has no adjusted value: `adjust`
takes the two arms and returns them ready for the effect estimators.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

from experiments.stats.errors import InvalidStatistic, ZeroVariance
from experiments.stats.moments import (
    MeanStats,
    centred,
    check_finite,
    check_products,
    check_two,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CupedStats:
    """Sums of a metric and of its covariate, one pair per unit."""

    metric: MeanStats
    """The metric during the experiment, y."""
    covariate: MeanStats
    """The covariate before the first exposure, x; the same units."""
    sum_products: float
    """Sum of y * x."""

    def __post_init__(self) -> None:
        check_finite(sum_products=self.sum_products)
        if self.metric.n != self.covariate.n:
            raise InvalidStatistic(
                f"metric has {self.metric.n} units, covariate {self.covariate.n}; they must be the "
                "same units. Give units without history the covariate 0 or leave both out"
            )
        if self.n:
            x, y = (
                (arm.sum, centred("sum_squares", arm.sum_squares, arm.sum, arm.n))
                for arm in (self.metric, self.covariate)
            )
            check_products("sum_products", self.sum_products, self.n, x, y)

    @property
    def n(self) -> int:
        """Units."""
        return self.metric.n

    @property
    def covariance(self) -> float:
        """Unbiased covariance of metric and covariate."""
        check_two(self.n)
        return centred(
            "sum_products", self.sum_products, self.metric.sum, self.n, self.covariate.sum
        ) / (self.n - 1)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            metric=self.metric + other.metric,
            covariate=self.covariate + other.covariate,
            sum_products=self.sum_products + other.sum_products,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedStats:
    """An arm after adjustment."""

    n: int
    estimate: float
    """Adjusted mean, ybar - theta xbar."""
    variance: float
    """v_y + theta^2 v_x - 2 theta cov(x, y)."""
    unadjusted: float
    """Plain mean of the metric, the denominator of a relative effect."""
    metric_variance: float
    """v_y."""
    metric_adjusted_covariance: float
    """Covariance of y and y - theta x in one unit: v_y - theta cov(x, y)."""


class AdjustedArms(NamedTuple):
    """Both arms with the theta they share."""

    control: AdjustedStats
    treatment: AdjustedStats
    theta: float
    variance_reduction: float
    """Share of the variance of the difference that the covariate removed, about rho^2."""


def pooled_theta(control: CupedStats, treatment: CupedStats) -> float:
    """Return theta = cov(y, x) / var(x) of both arms pooled as one sample.

    References:
        Deng, Xu, Kohavi, Walker (2013), "Improving the sensitivity of online controlled
        experiments by utilizing pre-experiment data", WSDM, eq. 4. Pooling the units of both arms
        (rather than averaging two thetas) is the variant of GrowthBook.

    Raises:
        ZeroVariance: If the covariate is constant; there is nothing to adjust by.
    """
    pooled = control + treatment
    variance = pooled.covariate.variance
    if variance <= 0:
        raise ZeroVariance(
            "the covariate is constant, so CUPED has nothing to adjust by; analyse the plain mean"
        )
    return pooled.covariance / variance


def adjust(
    control: CupedStats, treatment: CupedStats, *, theta: float | None = None
) -> AdjustedArms:
    """Adjust both arms by one theta.

    The adjusted means are not centred on the covariate's grand mean: the difference is unaffected,
    and the level is not meant to be read. Relative effects divide by the unadjusted control mean.

    Args:
        control: Sums of the control.
        treatment: Sums of the treatment.
        theta: Coefficient; by default `pooled_theta`.

    Returns:
        Adjusted arms. Assumes the covariate cannot be affected by the treatment.
    """
    coefficient = pooled_theta(control, treatment) if theta is None else theta
    arms = [_adjust_one(arm, coefficient) for arm in (control, treatment)]
    plain = sum(arm.metric_variance / arm.n for arm in arms)
    adjusted = sum(arm.variance / arm.n for arm in arms)
    reduction = 1.0 - adjusted / plain if plain > 0 else 0.0
    return AdjustedArms(arms[0], arms[1], coefficient, reduction)


def _adjust_one(arm: CupedStats, theta: float) -> AdjustedStats:
    covariance, metric_variance = arm.covariance, arm.metric.variance
    variance = metric_variance + theta * theta * arm.covariate.variance - 2.0 * theta * covariance
    return AdjustedStats(
        n=arm.n,
        estimate=arm.metric.estimate - theta * arm.covariate.estimate,
        variance=max(0.0, variance),
        unadjusted=arm.metric.estimate,
        metric_variance=metric_variance,
        metric_adjusted_covariance=metric_variance - theta * covariance,
    )
