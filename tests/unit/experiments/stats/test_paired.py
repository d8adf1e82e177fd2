"""Paired statistics: exact where they claim to be, and right at every look."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.stats.bernoulli import rate_interval
from experiments.stats.errors import InvalidStatistic, TooFewUnits, ZeroVariance
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.paired import (
    ShareStats,
    mean_interval,
    rate_difference,
    share_interval,
)
from experiments.stats.sequential import critical_value

LOOKS = (5, 20, 50, 100, 150, 250, 400, 700, 1200, 2000)
N_RUNS = 200
ALPHA = 0.1


def limit(rate: float) -> float:
    """Return the most false alarms that a method with this rate may show, by chance."""
    return N_RUNS * rate + 3 * math.sqrt(N_RUNS * rate * (1 - rate))


def test_yes_and_no_give_the_exact_sequence_of_a_rate() -> None:
    stats = ShareStats.from_values([1.0] * 3 + [0.0] * 9)
    interval = share_interval(stats, alpha=0.05)
    exact = rate_interval(ProportionStats(n=12, successes=3), alpha=0.025)
    assert (interval.lower, interval.upper) == exact
    assert interval.estimate == 0.25


def test_a_mean_is_bounded_by_its_standard_error_and_the_critical_value() -> None:
    values = np.random.default_rng(1).normal(0.2, 1.0, 400)
    interval = mean_interval(MeanStats.from_values(values), alpha=0.05, n_star=1000)
    half = values.std(ddof=1) / math.sqrt(400) * critical_value(400, alpha=0.05, n_star=1000)
    assert interval.lower == pytest.approx(values.mean() - half)
    assert interval.upper == pytest.approx(values.mean() + half)


def test_perfect_agreement_is_not_certainty() -> None:
    few, many = (share_interval(ShareStats.from_values([1.0] * n)) for n in (10, 1000))
    assert few.lower < 0.75 < many.lower < 1.0 == many.upper
    assert many.lower > 0.99


def test_rates_that_never_disagree_are_bounded_from_both_sides() -> None:
    none = ShareStats.from_values([0.0] * 500)
    interval = rate_difference(none, none, MeanStats(n=500, sum=0.0, sum_squares=0.0))
    assert interval.estimate == 0
    assert -0.03 < interval.lower < 0 < interval.upper < 0.03


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_an_interval_holds_its_estimate_and_stays_in_range(values: list[float]) -> None:
    interval = share_interval(ShareStats.from_values(values))
    assert 0 <= interval.lower <= interval.estimate + 1e-9
    assert interval.estimate - 1e-9 <= interval.upper <= 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidStatistic, match="cannot add up to 7"):
        ShareStats(n=3, successes=7.0, sum_squares=3.0)
    with pytest.raises(TooFewUnits, match="100 sessions; there are 99"):
        mean_interval(MeanStats.from_values([0.0, 1.0, 2.0] * 33))
    with pytest.raises(ZeroVariance):
        mean_interval(MeanStats.from_values([1.0] * 200))
    with pytest.raises(TooFewUnits):
        share_interval(ShareStats.from_values([]))
    one, two = ShareStats.from_values([0.5]), ShareStats.from_values([0.5, 0.5])
    with pytest.raises(InvalidStatistic, match="not the same ones"):
        rate_difference(one, two, MeanStats.from_values([0.0]))


@pytest.mark.parametrize("agreement", [0.999, 0.9, 0.5])
def test_the_share_that_agrees_is_covered_at_all_looks(agreement: float) -> None:
    rng = np.random.default_rng(int(agreement * 1000))
    misses = 0
    for _ in range(N_RUNS):
        # Sessions agree as a whole, more or less: Beta(3 m, 3 (1 - m)) has mean m.
        values = rng.beta(3 * agreement, 3 * (1 - agreement), LOOKS[-1])
        intervals = [share_interval(ShareStats.from_values(values[:n]), alpha=ALPHA) for n in LOOKS]
        misses += any(not i.lower <= agreement <= i.upper for i in intervals)
    assert misses <= limit(ALPHA)


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_equal_rates_are_hardly_ever_told_apart_however_often_one_looks(rate: float) -> None:
    rng = np.random.default_rng(int(rate * 1000))
    alarms = 0
    for _ in range(N_RUNS):
        # Requests of a session share its difficulty, and so do both variants.
        difficulty = rng.beta(rate, 1 - rate, LOOKS[-1])
        sizes = rng.integers(1, 12, LOOKS[-1])
        shown, shadow = (rng.binomial(sizes, difficulty) / sizes for _ in range(2))
        better = np.maximum(shadow - shown, 0)
        worse = np.maximum(shown - shadow, 0)
        for n in LOOKS:
            interval = rate_difference(
                ShareStats.from_values(better[:n]),
                ShareStats.from_values(worse[:n]),
                MeanStats.from_values(shadow[:n] - shown[:n]),
                alpha=ALPHA,
            )
            if not interval.lower <= 0 <= interval.upper:
                alarms += 1
                break
    assert alarms <= limit(ALPHA)


def test_equal_latencies_are_hardly_ever_told_apart_and_unequal_ones_are() -> None:
    rng = np.random.default_rng(11)
    alarms, found = 0, 0
    for _ in range(N_RUNS):
        session = rng.lognormal(0.0, 1.0, LOOKS[-1])
        shown, shadow = (session * rng.lognormal(0.0, 0.5, LOOKS[-1]) for _ in range(2))
        looks = [n for n in LOOKS if n >= 100]
        equal = [
            mean_interval(MeanStats.from_values((shadow - shown)[:n]), alpha=ALPHA) for n in looks
        ]
        alarms += any(not i.lower <= 0 <= i.upper for i in equal)
        slower = mean_interval(MeanStats.from_values(1.3 * shadow - shown), alpha=ALPHA)
        found += slower.lower > 0
    assert alarms <= limit(ALPHA)
    assert found >= 0.95 * N_RUNS
