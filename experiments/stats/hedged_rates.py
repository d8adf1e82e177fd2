"""Two rates, rare or not: the exact sequence and the asymptotic one, each at half of alpha.

The exact sequence speaks from the first unit and at no events at all, but bounds each arm by itself
and stays wide; the asymptotic one is tight, but needs events. Nobody knows beforehand how often an
error occurs, and choosing by looking would spend the guarantee. So both run from the start.
"""

from dataclasses import replace

from experiments.stats import bernoulli
from experiments.stats.comparison import Alternative, Comparison
from experiments.stats.effects import estimate_effect
from experiments.stats.errors import TooFewUnits, ZeroVariance
from experiments.stats.moments import ProportionStats
from experiments.stats.sequential import DEFAULT_N_STAR, check_burn_in, confidence_sequence


def compare(
    control: ProportionStats,
    treatment: ProportionStats,
    *,
    alpha: float = 0.05,
    alternative: Alternative = Alternative.TWO_SIDED,
    n_star: float = DEFAULT_N_STAR,
) -> Comparison:
    """Bound p_B - p_A at any time by the intersection of two confidence sequences.

    `bernoulli.compare` (exact) and `sequential.confidence_sequence` (asymptotic, from its burn-in
    on: 100 units an arm, 5 events of each outcome), each at alpha / 2. By the union bound both hold
    at all looks together with probability 1 - alpha, so what they have in common does. The p-value
    is twice the smaller one. Where they contradict each other, which has probability below alpha,
    the exact one is returned.

    Args:
        control: Counts of control.
        treatment: Counts of treatment.
        alpha: Error rate over all looks.
        alternative: Direction.
        n_star: Units of both arms for which the asymptotic sequence is tuned.

    Returns:
        The absolute comparison; method `rate_hedged`, `always_valid`.

    Raises:
        TooFewUnits: If an arm is empty.
    """
    exact = bernoulli.compare(control, treatment, alpha=alpha / 2.0, alternative=alternative)
    hedged = replace(
        exact, alpha=alpha, p_value=min(1.0, 2.0 * exact.p_value), method="rate_hedged"
    )
    events = (
        control.successes,
        control.n - control.successes,
        treatment.successes,
        treatment.n - treatment.successes,
    )
    try:
        check_burn_in(control.n, treatment.n, events=events)
        estimate = estimate_effect(control, treatment)
    except (TooFewUnits, ZeroVariance):
        return hedged
    tight = confidence_sequence(estimate, alpha=alpha / 2.0, alternative=alternative, n_star=n_star)
    lower, upper = max(exact.ci_lower, tight.ci_lower), min(exact.ci_upper, tight.ci_upper)
    if lower > upper:
        return hedged
    return replace(
        hedged,
        ci_lower=lower,
        ci_upper=upper,
        p_value=min(1.0, 2.0 * min(exact.p_value, tight.p_value)),
    )
