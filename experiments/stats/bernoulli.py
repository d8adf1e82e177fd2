"""Exact always-valid intervals for rates: no central limit theorem, valid from the first unit.

For guardrails on rare events (errors, refusals, leaks), where the asymptotic sequence has nothing
to stand on: 0 errors of 40 and 0 of 60 is information, and this says how much.
"""

import math
from typing import NamedTuple, Protocol

from experiments.stats.comparison import (
    Alternative,
    Comparison,
    Effect,
    check_alpha,
    one_sided_bounds,
)
from experiments.stats.distributions import log_beta
from experiments.stats.errors import TooFewUnits
from experiments.stats.moments import ProportionStats

_BISECTIONS = 100
"""Halvings of [0, 1]; more than a double can tell apart."""


class Successes(Protocol):
    """Units and how much of them are successes: whole ones, or shares in [0, 1] added up."""

    @property
    def n(self) -> int:
        """Units."""

    @property
    def successes(self) -> float:
        """Sum over units of a value in [0, 1]."""

    @property
    def estimate(self) -> float:
        """Successes per unit."""


class BetaMixture(NamedTuple):
    """Beta(a, b) over the alternative rates; must be fixed before the data."""

    a: float = 0.5
    b: float = 0.5


JEFFREYS = BetaMixture()
"""Beta(1/2, 1/2): the width is within a log factor of the best mixture for every true rate."""


def log_e_value(arm: Successes, rate: float, mixture: BetaMixture = JEFFREYS) -> float:
    """Return ln of the e-value against `rate`.

    e = B(a + S, b + n - S) / (B(a, b) rate^S (1 - rate)^(n - S)): the likelihood ratio of the
    beta-binomial mixture to the null. A test martingale when the true rate is `rate`, so
    P(e >= 1/alpha at any time) <= alpha (Ville), exactly, at every sample size.

    With shares in [0, 1] in place of yes and no it is a supermartingale: the likelihood ratio is
    convex in a unit's share, so its expectation is largest where every share is 0 or 1.

    Args:
        arm: Counts, or shares added up.
        rate: Null rate in [0, 1].
        mixture: Mixture over alternatives.

    References:
        Robbins (1970), "Statistical methods related to the law of the iterated logarithm", Annals
        of Mathematical Statistics 41; Howard et al. (2021), arXiv:1810.08240, section 3.2.
    """
    successes, failures = arm.successes, arm.n - arm.successes
    if (rate <= 0.0 and successes) or (rate >= 1.0 and failures):
        return math.inf
    null = successes * math.log(rate) if successes else 0.0
    null += failures * math.log1p(-rate) if failures else 0.0
    mixed = log_beta(mixture.a + successes, mixture.b + failures)
    return mixed - log_beta(mixture.a, mixture.b) - null


def rate_interval(
    arm: Successes, *, alpha: float = 0.05, mixture: BetaMixture = JEFFREYS
) -> tuple[float, float]:
    """Return the exact confidence sequence of one rate at this look.

    The set of rates whose e-value is below 1 / alpha. It is an interval because the e-value is
    convex in the rate; its ends are found by bisection.

    Returns:
        Lower and upper end in [0, 1].
    """
    check_alpha(alpha)
    if arm.n == 0:
        return 0.0, 1.0
    threshold, rate = -math.log(alpha), arm.estimate
    lower = _end(arm, rate, 0.0, threshold, mixture)
    return lower, _end(arm, rate, 1.0, threshold, mixture)


def compare(
    control: ProportionStats,
    treatment: ProportionStats,
    *,
    alpha: float = 0.05,
    alternative: Alternative = Alternative.TWO_SIDED,
    mixture: BetaMixture = JEFFREYS,
) -> Comparison:
    """Bound p_B - p_A at any time from the exact sequences of both rates.

    Each rate's sequence is run at alpha / 2 and the difference of the ends taken (union bound):
    always valid and exact, conservative by about a factor sqrt(2) against a paired method. Because
    one event covers both directions, one-sided bounds are no tighter. The p-value is the smallest
    alpha at which zero is excluded.

    Returns:
        The absolute comparison; method `bernoulli_exact`, `always_valid`; `standard_error` is the
        unpooled one, for information only.

    Raises:
        TooFewUnits: If an arm is empty.
    """
    check_alpha(alpha, alternative)
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n == 0:
            raise TooFewUnits(f"the {name} arm is empty; a comparison needs units in both arms")
    low_a, high_a = rate_interval(control, alpha=alpha / 2.0, mixture=mixture)
    low_b, high_b = rate_interval(treatment, alpha=alpha / 2.0, mixture=mixture)
    rate_a, rate_b = control.estimate, treatment.estimate
    lower, upper = one_sided_bounds(alternative, low_b - high_a, high_b - low_a)
    variance = sum(arm.variance / arm.n for arm in (control, treatment))
    return Comparison(
        effect=rate_b - rate_a,
        ci_lower=lower,
        ci_upper=upper,
        standard_error=math.sqrt(variance),
        p_value=_p_value(control, treatment, alternative, mixture),
        method="bernoulli_exact",
        effect_kind=Effect.ABSOLUTE,
        alternative=alternative,
        alpha=alpha,
        n_control=control.n,
        n_treatment=treatment.n,
        control=rate_a,
        treatment=rate_b,
        always_valid=True,
    )


def _end(
    arm: Successes, inside: float, outside: float, threshold: float, mixture: BetaMixture
) -> float:
    if log_e_value(arm, outside, mixture) < threshold:
        return outside
    for _ in range(_BISECTIONS):
        middle = 0.5 * (inside + outside)
        if log_e_value(arm, middle, mixture) < threshold:
            inside = middle
        else:
            outside = middle
    return outside


def _p_value(
    control: ProportionStats,
    treatment: ProportionStats,
    alternative: Alternative,
    mixture: BetaMixture,
) -> float:
    difference = treatment.estimate - control.estimate
    wrong_way = (alternative is Alternative.GREATER and difference <= 0) or (
        alternative is Alternative.LESS and difference >= 0
    )
    if wrong_way or difference == 0:
        return 1.0
    # Zero is excluded at alpha once no common rate is inside both sequences at alpha / 2: the
    # smallest over rates of the larger e-value decides. It lies where both are equal, between the
    # two estimates, because the larger-rate arm's e-value falls there while the other's rises.
    low, high = sorted((control, treatment), key=lambda arm: arm.estimate)
    left, right = low.estimate, high.estimate
    for _ in range(_BISECTIONS):
        middle = 0.5 * (left + right)
        if log_e_value(low, middle, mixture) < log_e_value(high, middle, mixture):
            left = middle
        else:
            right = middle
    middle = 0.5 * (left + right)
    log_e = max(log_e_value(low, middle, mixture), log_e_value(high, middle, mixture))
    return min(1.0, 2.0 * math.exp(-max(0.0, log_e)))
