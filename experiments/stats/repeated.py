"""Repeated confidence intervals of a group-sequential test."""

from collections.abc import Sequence

from experiments.stats.comparison import (
    Alternative,
    Comparison,
    Effect,
    check_alpha,
    one_sided_bounds,
)
from experiments.stats.effects import EffectEstimate
from experiments.stats.group_sequential import Spending, boundary, repeated_p_value


def repeated_interval(
    estimate: EffectEstimate,
    fractions: Sequence[float],
    *,
    alpha: float = 0.05,
    effect: Effect = Effect.ABSOLUTE,
    alternative: Alternative = Alternative.TWO_SIDED,
    spending: Spending = Spending.OBRIEN_FLEMING,
    phi: float = 2.0,
) -> Comparison:
    """Turn an effect into its repeated confidence interval at the last of the looks given.

    effect +- c_K se with c_K the critical value of this look; all looks together cover with
    probability 1 - alpha. Valid at the declared looks only, so `always_valid` is true for those who
    look no more often than `fractions` says.

    Args:
        estimate: Effect and standard error from all units so far.
        fractions: Information fractions of all looks so far, this one last; units so far / planned.
        alpha: Error rate over all looks together.
        effect: What `estimate` is, for the report.
        alternative: Two-sided, greater or less.
        spending: Alpha spending function.
        phi: Exponent of the power family.

    Returns:
        The comparison; method `group_sequential_<spending>`. Its p-value is the repeated p-value.

    References:
        Jennison, Turnbull (1989), "Interim analyses: the repeated confidence interval approach",
        JRSS B 51, 305-361.
    """
    check_alpha(alpha, alternative)
    two_sided = alternative is Alternative.TWO_SIDED
    made = boundary(fractions, alpha=alpha, spending=spending, two_sided=two_sided, phi=phi)
    half = made.critical[-1] * estimate.standard_error
    z = estimate.effect / estimate.standard_error
    score = -z if alternative is Alternative.LESS else z
    lower, upper = one_sided_bounds(alternative, estimate.effect - half, estimate.effect + half)
    return Comparison(
        effect=estimate.effect,
        ci_lower=lower,
        ci_upper=upper,
        standard_error=estimate.standard_error,
        p_value=repeated_p_value(score, fractions, spending=spending, two_sided=two_sided, phi=phi),
        method=f"group_sequential_{spending.value}",
        effect_kind=effect,
        alternative=alternative,
        alpha=alpha,
        n_control=estimate.n_control,
        n_treatment=estimate.n_treatment,
        control=estimate.control,
        treatment=estimate.treatment,
        always_valid=True,
    )
