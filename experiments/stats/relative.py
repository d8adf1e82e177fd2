"""Relative effects beyond the delta method: Fieller's interval and the log-ratio interval.

The delta interval (`means.compare` with a relative effect) is symmetric and is what most engines
print. It is too short when the control value is noisy; Fieller's is exact for normal estimates and
says so when the control value cannot be told from zero.
"""

import math

from experiments.stats.comparison import (
    Alternative,
    Comparison,
    Effect,
    check_alpha,
    one_sided_bounds,
)
from experiments.stats.distributions import t_ppf
from experiments.stats.effects import EffectEstimate, estimate_effect
from experiments.stats.errors import ZeroBaseline
from experiments.stats.means import tail_probability
from experiments.stats.moments import ArmStatistic


def fieller(
    control: ArmStatistic,
    treatment: ArmStatistic,
    *,
    alpha: float = 0.05,
    alternative: Alternative = Alternative.TWO_SIDED,
) -> Comparison:
    """Compare by Fieller's interval for the ratio of two independent means, minus one.

    The interval holds every ratio r for which |m_B - r m_A| <= t sqrt(s_B^2 + r^2 s_A^2), with s^2
    the squared standard errors and t with the Welch-Satterthwaite degrees of freedom of the
    difference (the plug-in variant). The p-value is that of Welch's test of the difference, which
    is dual to the interval at r = 1. The standard error shown is the delta method's.

    Args:
        control: Control arm, with a positive or negative but clearly non-zero value.
        treatment: Treatment arm.
        alpha: Error rate in (0, 1).
        alternative: Two-sided, greater or less.

    Returns:
        The relative comparison; method `fieller_t`.

    Raises:
        ZeroBaseline: If the control value is not told from zero at level alpha; the set of
            plausible ratios is then unbounded.

    References:
        Fieller (1954), "Some problems in interval estimation", JRSS B 16, 175-185.
    """
    check_alpha(alpha, alternative)
    absolute = estimate_effect(control, treatment, Effect.ABSOLUTE)
    relative = estimate_effect(control, treatment, Effect.RELATIVE)
    tail = alpha / 2.0 if alternative is Alternative.TWO_SIDED else alpha
    t = t_ppf(1.0 - tail, absolute.df)
    mean_a, mean_b = control.estimate, treatment.estimate
    variance_a, variance_b = control.variance / control.n, treatment.variance / treatment.n
    g = t * t * variance_a / (mean_a * mean_a)
    if g >= 1.0:
        raise ZeroBaseline(
            f"the control value {mean_a!r} is not told from 0 at alpha = {alpha!r}, so the "
            "relative effect has no bounded interval; ask for the absolute one or more units"
        )
    ratio = mean_b / mean_a
    half = (
        t / abs(mean_a) * math.sqrt(max(0.0, variance_b * (1.0 - g) + ratio * ratio * variance_a))
    )
    ends = sorted(((ratio - half) / (1.0 - g), (ratio + half) / (1.0 - g)))
    return _from_ratio(
        absolute,
        relative,
        (ends[0], ends[1]),
        alpha=alpha,
        alternative=alternative,
        method="fieller_t",
        negative=mean_a < 0,
    )


def log_ratio(
    control: ArmStatistic,
    treatment: ArmStatistic,
    *,
    alpha: float = 0.05,
    alternative: Alternative = Alternative.TWO_SIDED,
) -> Comparison:
    """Compare by the delta method on ln(m_B / m_A), transformed back.

    Keeps the interval above -100 % and is invariant under swapping the arms. p-value of Welch's
    test of the difference. This is the variant of tea-tasting's relative intervals.

    Returns:
        The relative comparison; method `log_ratio_t`.

    Raises:
        ZeroBaseline: If the values do not have the same sign.

    References:
        Deng, Knoblich, Lu (2018), arXiv:1803.06336, section 3.1, applied to the logarithm.
    """
    check_alpha(alpha, alternative)
    absolute = estimate_effect(control, treatment, Effect.ABSOLUTE)
    relative = estimate_effect(control, treatment, Effect.RELATIVE)
    mean_a, mean_b = control.estimate, treatment.estimate
    if mean_a * mean_b <= 0:
        raise ZeroBaseline(
            f"the arms are {mean_a!r} and {mean_b!r}; a log ratio needs two values of one sign"
        )
    tail = alpha / 2.0 if alternative is Alternative.TWO_SIDED else alpha
    log_se = math.sqrt(
        control.variance / control.n / (mean_a * mean_a)
        + treatment.variance / treatment.n / (mean_b * mean_b)
    )
    factor = math.exp(t_ppf(1.0 - tail, absolute.df) * log_se)
    ratio = mean_b / mean_a
    return _from_ratio(
        absolute,
        relative,
        (ratio / factor, ratio * factor),
        alpha=alpha,
        alternative=alternative,
        method="log_ratio_t",
        negative=mean_a < 0,
    )


def _from_ratio(
    absolute: EffectEstimate,
    relative: EffectEstimate,
    ratio_ends: tuple[float, float],
    *,
    alpha: float,
    alternative: Alternative,
    method: str,
    negative: bool,
) -> Comparison:
    low, high = ratio_ends[0] - 1.0, ratio_ends[1] - 1.0
    if negative:  # the effect divides by |m_A|, so a negative baseline mirrors the ratio
        low, high = -high, -low
    lower, upper = one_sided_bounds(alternative, low, high)
    return Comparison(
        effect=relative.effect,
        ci_lower=lower,
        ci_upper=upper,
        standard_error=relative.standard_error,
        p_value=tail_probability(
            absolute.effect / absolute.standard_error, alternative, df=absolute.df
        ),
        method=method,
        effect_kind=Effect.RELATIVE,
        alternative=alternative,
        alpha=alpha,
        n_control=relative.n_control,
        n_treatment=relative.n_treatment,
        control=relative.control,
        treatment=relative.treatment,
        df=absolute.df,
    )
