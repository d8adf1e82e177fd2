"""Two proportions: chi-squared with Newcombe's interval, and named z variants."""

import math
from enum import StrEnum
from typing import NamedTuple

from experiments.stats.comparison import (
    Alternative,
    Comparison,
    Effect,
    check_alpha,
    one_sided_bounds,
)
from experiments.stats.distributions import norm_isf
from experiments.stats.errors import TooFewUnits, ZeroVariance
from experiments.stats.means import tail_probability
from experiments.stats.moments import ProportionStats


class ProportionMethod(StrEnum):
    """How two proportions are compared."""

    CHI2_NEWCOMBE = "chi2_newcombe"
    """Pearson chi-squared without Yates' correction; Newcombe's hybrid score interval."""
    CHI2_YATES_NEWCOMBE = "chi2_yates_newcombe"
    """The same with Yates' continuity correction of the p-value."""
    Z_POOLED = "z_pooled"
    """p from the pooled variance, interval from the unpooled (Wald)."""
    Z_UNPOOLED = "z_unpooled"
    """p and interval from the unpooled variance (Wald)."""


class Interval(NamedTuple):
    """A confidence interval."""

    lower: float
    upper: float


def compare(
    control: ProportionStats,
    treatment: ProportionStats,
    *,
    alpha: float = 0.05,
    alternative: Alternative = Alternative.TWO_SIDED,
    method: ProportionMethod = ProportionMethod.CHI2_NEWCOMBE,
) -> Comparison:
    """Compare two rates, absolute difference p_B - p_A.

    H0: equal rates. The chi-squared statistic is the square of the pooled z, so its one-sided
    version is the signed z. The default interval comes from inverting two Wilson score tests and
    never leaves [-1, 1]; it is not exactly dual to the chi-squared p-value near alpha. `z_unpooled`
    is dual. With no event (or only events) in both arms the p-value is 1 and Newcombe's interval
    still says how much difference is possible; the z variants refuse.

    Args:
        control: Control counts.
        treatment: Treatment counts.
        alpha: Error rate in (0, 1).
        alternative: Two-sided, greater or less.
        method: Variant.

    Returns:
        The comparison; `standard_error` is the unpooled one in every variant.

    Raises:
        TooFewUnits: If an arm is empty.
        ZeroVariance: If a z variant has no spread.

    References:
        Newcombe (1998), "Interval estimation for the difference between independent proportions",
        Statistics in Medicine 17, 873-890, method 10. Pearson chi-squared as
        `scipy.stats.chi2_contingency(correction=False)`.
    """
    check_alpha(alpha, alternative)
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n == 0:
            raise TooFewUnits(f"the {name} arm is empty; a comparison needs units in both arms")
    difference = treatment.estimate - control.estimate
    unpooled = math.sqrt(control.variance / control.n + treatment.variance / treatment.n)
    pooled = math.sqrt((control + treatment).variance * (1.0 / control.n + 1.0 / treatment.n))
    tail = alpha / 2.0 if alternative is Alternative.TWO_SIDED else alpha
    match method:
        case ProportionMethod.CHI2_NEWCOMBE | ProportionMethod.CHI2_YATES_NEWCOMBE:
            interval = newcombe_interval(control, treatment, alpha=2.0 * tail)
            yates = method is ProportionMethod.CHI2_YATES_NEWCOMBE
            p_value = _pooled_p(difference, pooled, control.n, treatment.n, alternative, yates)
        case ProportionMethod.Z_POOLED | ProportionMethod.Z_UNPOOLED:
            scale = pooled if method is ProportionMethod.Z_POOLED else unpooled
            if scale <= 0 or unpooled <= 0:
                raise ZeroVariance(
                    "every unit answered alike; use chi2_newcombe, which holds there"
                )
            half = norm_isf(tail) * unpooled
            interval = Interval(difference - half, difference + half)
            p_value = tail_probability(difference / scale, alternative)
    lower, upper = one_sided_bounds(alternative, interval.lower, interval.upper)
    return Comparison(
        effect=difference,
        ci_lower=lower,
        ci_upper=upper,
        standard_error=unpooled,
        p_value=p_value,
        method=method.value,
        effect_kind=Effect.ABSOLUTE,
        alternative=alternative,
        alpha=alpha,
        n_control=control.n,
        n_treatment=treatment.n,
        control=control.estimate,
        treatment=treatment.estimate,
    )


def wilson_interval(arm: ProportionStats, *, alpha: float = 0.05) -> Interval:
    """Return Wilson's score interval of one rate, without continuity correction.

    Args:
        arm: Counts, at least one unit.
        alpha: Two-sided error rate in (0, 1).

    References:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference",
        JASA 22, 209-212. Equal to statsmodels `proportion_confint(method="wilson")`.
    """
    check_alpha(alpha)
    rate, n = arm.estimate, arm.n
    z = norm_isf(alpha / 2.0)
    centre = (rate + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * math.sqrt(arm.variance / n + z * z / (4.0 * n * n))
    # At 0 and n the end is exactly the rate; rounding would leave 1e-17 beside it.
    lower = 0.0 if arm.successes == 0 else max(0.0, centre - half)
    upper = 1.0 if arm.successes == n else min(1.0, centre + half)
    return Interval(lower, upper)


def newcombe_interval(
    control: ProportionStats, treatment: ProportionStats, *, alpha: float = 0.05
) -> Interval:
    """Return Newcombe's hybrid score interval of p_B - p_A (his method 10, no correction).

    Equal to statsmodels `confint_proportions_2indep(method="newcomb", compare="diff")`.
    """
    low_a, high_a = wilson_interval(control, alpha=alpha)
    low_b, high_b = wilson_interval(treatment, alpha=alpha)
    rate_a, rate_b = control.estimate, treatment.estimate
    difference = rate_b - rate_a
    return Interval(
        difference - math.hypot(rate_b - low_b, high_a - rate_a),
        difference + math.hypot(high_b - rate_b, rate_a - low_a),
    )


def _pooled_p(
    difference: float, pooled: float, n_a: int, n_b: int, alternative: Alternative, yates: bool
) -> float:
    if pooled <= 0:
        return 1.0
    size = abs(difference)
    if yates:
        # |ad - bc| - n/2, never past zero, written for the difference of the two rates.
        size -= min(size, 0.5 * (1.0 / n_a + 1.0 / n_b))
    return tail_probability(math.copysign(size, difference) / pooled, alternative)
