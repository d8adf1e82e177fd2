"""Rates of unknown size: as valid as the exact sequence, nearly as tight as the asymptotic one."""

import numpy as np
import pytest

from experiments.stats import bernoulli, hedged_rates
from experiments.stats.comparison import Alternative
from experiments.stats.errors import TooFewUnits
from experiments.stats.moments import ProportionStats


def rate(n: int, successes: int) -> ProportionStats:
    return ProportionStats(n=n, successes=successes)


def test_without_events_it_is_the_exact_sequence_at_half_of_alpha() -> None:
    ours = hedged_rates.compare(rate(1500, 0), rate(1500, 0), alpha=0.05)
    exact = bernoulli.compare(rate(1500, 0), rate(1500, 0), alpha=0.025)
    assert (ours.ci_lower, ours.ci_upper) == (exact.ci_lower, exact.ci_upper)
    assert (ours.alpha, ours.method, ours.always_valid) == (0.05, "rate_hedged", True)


def test_with_events_it_is_much_tighter_than_the_exact_sequence() -> None:
    arms = rate(3000, 40), rate(3000, 48)
    ours = hedged_rates.compare(*arms, n_star=6000)
    exact = bernoulli.compare(*arms)
    assert (ours.ci_upper - ours.ci_lower) < 0.7 * (exact.ci_upper - exact.ci_lower)
    assert ours.effect == exact.effect


@pytest.mark.parametrize("alternative", list(Alternative))
def test_p_value_and_interval_agree(alternative: Alternative) -> None:
    draw = np.random.default_rng(3)
    for _ in range(60):
        n = int(draw.integers(20, 3000))
        arms = [rate(n, int(draw.binomial(n, p))) for p in draw.uniform(0, 0.2, size=2)]
        ours = hedged_rates.compare(*arms, alternative=alternative)
        excluded = ours.ci_lower > 0 or ours.ci_upper < 0
        assert excluded == (ours.p_value < ours.alpha)


def test_looking_all_the_time_finds_no_difference_where_there_is_none() -> None:
    draw = np.random.default_rng(11)
    false, runs = 0, 200
    for _ in range(runs):
        hits = draw.random((2, 3000)) < 0.02
        for n in range(100, 3001, 100):
            arms = [rate(n, int(arm[:n].sum())) for arm in hits]
            if hedged_rates.compare(*arms, n_star=6000).p_value <= 0.05:
                false += 1
                break
    assert false / runs <= 0.05


def test_an_empty_arm_is_refused() -> None:
    with pytest.raises(TooFewUnits):
        hedged_rates.compare(rate(0, 0), rate(10, 1))
