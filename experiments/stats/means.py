"""Fixed-horizon tests of a difference: Welch, Student, z.

They hold their error rate for one look, at the planned size. `sequential` is for looking often.
"""

import math
from enum import StrEnum

from experiments.stats.comparison import (
    Alternative,
    Comparison,
    Effect,
    check_alpha,
    one_sided_bounds,
)
from experiments.stats.distributions import norm_cdf, t_cdf, t_ppf
from experiments.stats.effects import EffectEstimate, estimate_effect
from experiments.stats.errors import ZeroVariance
from experiments.stats.moments import ArmStatistic, MeanStats


class Reference(StrEnum):
    """Reference distribution of the studentised effect."""

    T = "t"
    """Student's with Welch-Satterthwaite degrees of freedom."""
    NORMAL = "normal"
    """Standard normal: for large samples, and to reproduce engines that use z."""


def compare(
    control: ArmStatistic,
    treatment: ArmStatistic,
    *,
    alpha: float = 0.05,
    effect: Effect = Effect.ABSOLUTE,
    alternative: Alternative = Alternative.TWO_SIDED,
    reference: Reference = Reference.T,
) -> Comparison:
    """Test a zero effect without assuming equal variances (Welch).

    H0: the effect is zero. Assumes independent units and an approximately normal estimate. Interval
    and p-value are dual: the interval excludes 0 exactly when p < alpha. Works for every metric
    whose arm has an estimate and a unit variance; for a mean it is `scipy.stats.ttest_ind` with
    `equal_var=False`, for the relative effect it is the delta method of `effects.estimate_effect`
    with the same degrees of freedom.

    Args:
        control: Control arm.
        treatment: Treatment arm.
        alpha: Error rate in (0, 1), all of it on one side if the alternative is one-sided.
        effect: Absolute or relative.
        alternative: Two-sided, greater or less.
        reference: Student's t (default) or normal.

    Returns:
        The comparison; method `welch_t`, `welch_z`, with suffix `_relative_delta`.

    Raises:
        StatisticsError: If the effect or its standard error is undefined.

    References:
        Welch (1947), "The generalization of Student's problem when several different population
        variances are involved", Biometrika 34, 28-35.
    """
    estimate = estimate_effect(control, treatment, effect)
    if reference is Reference.NORMAL:
        estimate = estimate._replace(df=math.inf)
    suffix = "_relative_delta" if effect is Effect.RELATIVE else ""
    name = "welch_t" if reference is Reference.T else "welch_z"
    return studentised(
        estimate, alpha=alpha, effect=effect, alternative=alternative, method=name + suffix
    )


def student(
    control: MeanStats,
    treatment: MeanStats,
    *,
    alpha: float = 0.05,
    alternative: Alternative = Alternative.TWO_SIDED,
) -> Comparison:
    """Test equal means assuming equal variances (Student's pooled t).

    Equal to `scipy.stats.ttest_ind` with `equal_var=True`. Kept to reproduce other engines; Welch
    is the default because unequal splits with unequal variances break this one.

    Returns:
        The absolute comparison; method `student_t`.
    """
    df = control.n + treatment.n - 2
    pooled = ((control.n - 1) * control.variance + (treatment.n - 1) * treatment.variance) / df
    if pooled <= 0:
        raise ZeroVariance("no unit differs from another in either arm; no standard error exists")
    estimate = EffectEstimate(
        treatment.estimate - control.estimate,
        math.sqrt(pooled * (1.0 / control.n + 1.0 / treatment.n)),
        float(df),
        control.n,
        treatment.n,
        control.estimate,
        treatment.estimate,
    )
    return studentised(
        estimate,
        alpha=alpha,
        effect=Effect.ABSOLUTE,
        alternative=alternative,
        method="student_t",
    )


def studentised(
    estimate: EffectEstimate,
    *,
    alpha: float,
    effect: Effect,
    alternative: Alternative,
    method: str,
) -> Comparison:
    """Turn an effect and its standard error into an interval and a p-value (t or normal)."""
    check_alpha(alpha, alternative)
    tail = alpha / 2.0 if alternative is Alternative.TWO_SIDED else alpha
    half = -t_ppf(tail, estimate.df) * estimate.standard_error
    lower, upper = one_sided_bounds(alternative, estimate.effect - half, estimate.effect + half)
    return Comparison(
        effect=estimate.effect,
        ci_lower=lower,
        ci_upper=upper,
        standard_error=estimate.standard_error,
        p_value=tail_probability(
            estimate.effect / estimate.standard_error, alternative, df=estimate.df
        ),
        method=method,
        effect_kind=effect,
        alternative=alternative,
        alpha=alpha,
        n_control=estimate.n_control,
        n_treatment=estimate.n_treatment,
        control=estimate.control,
        treatment=estimate.treatment,
        df=estimate.df,
    )


def tail_probability(statistic: float, alternative: Alternative, *, df: float = math.inf) -> float:
    """Return the p-value of a studentised statistic, accurate in the far tail."""

    def cdf(x: float) -> float:
        return norm_cdf(x) if math.isinf(df) else t_cdf(x, df)

    match alternative:
        case Alternative.TWO_SIDED:
            return min(1.0, 2.0 * cdf(-abs(statistic)))
        case Alternative.GREATER:
            return cdf(-statistic)
        case Alternative.LESS:
            return cdf(statistic)
