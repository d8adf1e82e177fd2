"""Always-valid inference: look as often as you like, stop when you like.

A fixed-horizon interval covers the truth with probability 1 - alpha at one look. A confidence
sequence covers it at all looks at once, so stopping at the first look that excludes zero keeps
false positives at alpha. It is tightest near a sample size `n_star`, which must be declared before
the experiment starts (the planned size); tuning it afterwards gives the guarantee away.
"""

import math
from typing import NamedTuple

from experiments.stats.comparison import (
    Alternative,
    Comparison,
    Effect,
    check_alpha,
    one_sided_bounds,
)
from experiments.stats.distributions import lambert_w_minus1, norm_isf
from experiments.stats.effects import EffectEstimate
from experiments.stats.errors import TooFewUnits

DEFAULT_N_STAR = 5000.0
"""Units of both arms where the sequence is tightest if nothing is declared, as in GrowthBook."""

MIN_UNITS_PER_ARM = 100
"""Burn-in of the asymptotic sequence: earlier, the estimate need not be close to normal. From our
simulations in tests/unit/experiments/stats/test_calibration.py and statistics.md 2.7."""

MIN_EVENTS_PER_OUTCOME = 5
"""Successes and failures in each arm before a rate counts as close to normal."""


class SequentialP(NamedTuple):
    """Evidence against a zero effect at one look."""

    log_e_value: float
    """ln of the e-value, the payoff of a fair bet against the null; comparable over looks."""
    p_value: float
    """Anytime-valid p-value of this look; a report keeps the minimum over looks."""


def optimal_rho(alpha: float, n_star: float) -> float:
    """Return the mixing parameter that makes the two-sided sequence tight at `n_star`.

    rho = sqrt((-2 ln a + ln(-2 ln a + 1)) / n_star), the closed-form approximation of eq. 161 in
    Waudby-Smith et al. (the exact minimiser, `exact_rho`, is 0.003 % narrower).

    Args:
        alpha: Two-sided error rate in (0, 1); one-sided sequences pass 2 alpha.
        n_star: Units of both arms where the sequence shall be tightest, > 0.

    References:
        Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and
        asymptotic confidence sequences", Annals of Statistics 52 (2024); arXiv:2103.06476v7.
    """
    _check_n_star(n_star)
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha!r}; two-sided below 1, one-sided below 0.5")
    log_term = -2.0 * math.log(alpha)
    return math.sqrt((log_term + math.log(log_term + 1.0)) / n_star)


def exact_rho(alpha: float, n_star: float) -> float:
    """Return the exact minimiser of the width at `n_star`: sqrt((-W_{-1}(-a^2 / e) - 1) / n_star).

    References:
        Howard, Ramdas, McAuliffe, Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic
        confidence sequences", Annals of Statistics 49, section 3.5; arXiv:1810.08240.
    """
    _check_n_star(n_star)
    check_alpha(alpha)
    return math.sqrt((-lambert_w_minus1(-(alpha**2) / math.e) - 1.0) / n_star)


def critical_value(n: float, *, alpha: float, n_star: float, two_sided: bool = True) -> float:
    """Return half-width / standard error of the asymptotic confidence sequence at `n` units.

    With x = n rho^2: two-sided sqrt(2 (x + 1) / x * ln(sqrt(x + 1) / a)) (eq. 9 of
    arXiv:2103.06476v7); one-sided ln(1 + sqrt(x + 1) / (2 a)) in place of the logarithm and rho
    taken at 2 a (eq. 134). At n = n_star and a = 0.05 the two-sided value is 3.04, that is 1.55
    times the fixed-horizon 1.96: the price of looking.

    Args:
        n: Units of both arms so far, > 0.
        alpha: Error rate in (0, 1), below 0.5 if one-sided.
        n_star: Declared units of both arms where the sequence is tightest.
        two_sided: Whether both ends are needed.
    """
    check_alpha(alpha)
    rho = optimal_rho(alpha if two_sided else 2.0 * alpha, n_star)
    x = n * rho * rho
    if two_sided:
        log_term = 0.5 * math.log1p(x) - math.log(alpha)
    else:
        log_term = math.log1p(math.sqrt(x + 1.0) / (2.0 * alpha))
    return math.sqrt(2.0 * (x + 1.0) / x * log_term)


def sequential_p(
    z: float, n: float, *, alpha: float, n_star: float, alternative: Alternative
) -> SequentialP:
    """Return the e-value and anytime-valid p-value of a studentised effect.

    Two-sided (eq. 155): e = exp(x z^2 / (2 (x + 1))) / sqrt(x + 1) with x = n rho^2, p = min(1,
    1/e). One-sided: the level at which the one-sided sequence, with the same rho, just excludes
    zero: p = sqrt(x + 1) / (2 (exp(x z^2 / (2 (x + 1))) - 1)) for z in the right direction, else 1.
    Both are dual to the intervals of `confidence_sequence`: p <= alpha exactly when zero is out.

    Args:
        z: Effect / standard error.
        n: Units of both arms.
        alpha: Error rate the sequence is tuned for.
        n_star: Declared size.
        alternative: Direction.
    """
    two_sided = alternative is Alternative.TWO_SIDED
    rho = optimal_rho(alpha if two_sided else 2.0 * alpha, n_star)
    x = n * rho * rho
    exponent = x * z * z / (2.0 * (x + 1.0))
    if two_sided:
        log_e = exponent - 0.5 * math.log1p(x)
    else:
        right = z > 0 if alternative is Alternative.GREATER else z < 0
        if not right or exponent == 0.0:  # exponent underflows before z does
            return SequentialP(-math.inf, 1.0)
        # ln(exp(u) - 1) = u + ln(1 - exp(-u)), finite for every u > 0.
        log_expm1 = exponent + math.log(-math.expm1(-exponent))
        log_e = math.log(2.0) + log_expm1 - 0.5 * math.log1p(x)
    return SequentialP(log_e, min(1.0, math.exp(min(0.0, -log_e))))


def confidence_sequence(
    estimate: EffectEstimate,
    *,
    alpha: float = 0.05,
    effect: Effect = Effect.ABSOLUTE,
    alternative: Alternative = Alternative.TWO_SIDED,
    n_star: float = DEFAULT_N_STAR,
) -> Comparison:
    """Turn an effect into its asymptotic confidence sequence at this look.

    Assumes independent analysis units, finite variances and enough units for the central limit
    theorem at every look that counts (see `check_burn_in`). Valid for every estimate with a
    consistent standard error: means, rates, ratios, CUPED, post-stratified, absolute or relative.

    Args:
        estimate: Effect and standard error from all units so far.
        alpha: Error rate over all looks together.
        effect: What `estimate` is, for the report.
        alternative: Two-sided, greater or less.
        n_star: Units of both arms for which the sequence is tuned; fix it before the start.

    Returns:
        The comparison; method `asymptotic_cs`, `always_valid`.

    References:
        Waudby-Smith et al. (2024), arXiv:2103.06476v7, eq. 9, 134, 155; the normal mixture is
        that of Robbins (1970) and Howard et al. (2021), two-sided, with variance process n.
    """
    check_alpha(alpha, alternative)
    n = estimate.n_control + estimate.n_treatment
    two_sided = alternative is Alternative.TWO_SIDED
    half = estimate.standard_error * critical_value(
        n, alpha=alpha, n_star=n_star, two_sided=two_sided
    )
    z = estimate.effect / estimate.standard_error
    p = sequential_p(z, n, alpha=alpha, n_star=n_star, alternative=alternative).p_value
    return _comparison(estimate, half, p, alpha, effect, alternative, "asymptotic_cs")


def msprt(
    estimate: EffectEstimate,
    *,
    alpha: float = 0.05,
    effect: Effect = Effect.ABSOLUTE,
) -> Comparison:
    """Turn an effect into the mixture sequential probability ratio interval, Statsig's variant.

    With V the squared standard error and tau = z_{a/2}^2 V: critical value
    sqrt((V + tau) / tau * (-2 ln(a/2) - ln(V / (V + tau)))). As documented by Statsig tau follows
    V at every look, so the critical value is constant and the guarantee is approximate; kept to
    reproduce their numbers, not as a default.

    Returns:
        The two-sided comparison; method `msprt`.

    References:
        Zhao, Chen et al. (2019), "Safely and quickly deploying new features with a staged rollout
        framework using sequential test and adaptive experimental design", arXiv:1905.10493.
    """
    check_alpha(alpha)
    ratio = norm_isf(alpha / 2.0) ** 2  # tau / V
    scale, spread = (1.0 + ratio) / ratio, math.log1p(ratio)
    critical = math.sqrt(scale * (-2.0 * math.log(alpha / 2.0) + spread))
    z = estimate.effect / estimate.standard_error
    p = min(1.0, 2.0 * math.exp(0.5 * (spread - z * z / scale)))
    return _comparison(
        estimate,
        critical * estimate.standard_error,
        p,
        alpha,
        effect,
        Alternative.TWO_SIDED,
        "msprt",
    )


def normal_mixture_bound(variance: float, *, alpha: float, variance_star: float) -> float:
    """Return the two-sided normal-mixture boundary of a sum with variance process V.

    sqrt((V + r) ln((V + r) / (r a^2))) with r = V* / (2 ln(1/a) + ln(1 + 2 ln(1/a))). The same
    curve as `critical_value` with n in place of V and r = 1 / rho^2.

    References:
        Howard et al. (2021), arXiv:1810.08240, eq. 14.
    """
    check_alpha(alpha)
    log_term = 2.0 * math.log(1.0 / alpha)
    r = variance_star / (log_term + math.log1p(log_term))
    return math.sqrt((variance + r) * math.log((variance + r) / (r * alpha * alpha)))


def check_burn_in(
    n_control: int, n_treatment: int, *, events: tuple[int, ...] = (), minimum: int | None = None
) -> None:
    """Refuse a look before the asymptotic sequence holds.

    Args:
        n_control: Units in control.
        n_treatment: Units in treatment.
        events: Successes and failures of both arms, for rates.
        minimum: Units per arm; `MIN_UNITS_PER_ARM` by default.

    Raises:
        TooFewUnits: If an arm or an outcome is too small.
    """
    need = MIN_UNITS_PER_ARM if minimum is None else minimum
    if min(n_control, n_treatment) < need:
        raise TooFewUnits(
            f"the asymptotic confidence sequence starts at {need} units per arm; there are "
            f"{n_control} and {n_treatment}"
        )
    if events and min(events) < MIN_EVENTS_PER_OUTCOME:
        raise TooFewUnits(
            f"an arm has {min(events)} successes or failures; the asymptotic confidence sequence "
            f"needs {MIN_EVENTS_PER_OUTCOME}. Use bernoulli_exact for rare outcomes"
        )


def _comparison(
    estimate: EffectEstimate,
    half: float,
    p_value: float,
    alpha: float,
    effect: Effect,
    alternative: Alternative,
    method: str,
) -> Comparison:
    lower, upper = one_sided_bounds(alternative, estimate.effect - half, estimate.effect + half)
    return Comparison(
        effect=estimate.effect,
        ci_lower=lower,
        ci_upper=upper,
        standard_error=estimate.standard_error,
        p_value=p_value,
        method=method,
        effect_kind=effect,
        alternative=alternative,
        alpha=alpha,
        n_control=estimate.n_control,
        n_treatment=estimate.n_treatment,
        control=estimate.control,
        treatment=estimate.treatment,
        always_valid=True,
    )


def _check_n_star(n_star: float) -> None:
    if not (math.isfinite(n_star) and n_star > 0):
        raise ValueError(f"n_star is {n_star!r}; allowed: a positive number of units")
