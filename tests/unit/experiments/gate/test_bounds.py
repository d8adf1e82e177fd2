"""Bounds and tests against scipy, the rule of three and direct simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.gate.bounds import (
    adjusted_wald,
    binomial_bounds,
    bootstrap_means,
    cluster,
    mcnemar_exact,
    quantile_bounds,
    rate_bounds,
)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (0, 5), (5, 0), (12, 7), (300, 260)])
def test_mcnemar_is_scipys_one_sided_binomial_test(better: int, worse: int) -> None:
    expected = 1.0
    if better + worse:
        expected = stats.binomtest(better, better + worse, alternative="greater").pvalue
    assert mcnemar_exact(better, worse) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "n"), [(0, 60), (60, 60), (3, 300), (297, 300), (70, 100)])
def test_exact_bounds_are_clopper_and_pearsons(successes: int, n: int) -> None:
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=0.90)
    found = binomial_bounds(successes, n, 0.05, exact=True)
    assert (found.lower, found.upper) == pytest.approx((interval.low, interval.high))


def test_no_event_of_300_shows_the_rule_of_three() -> None:
    assert binomial_bounds(0, 300, 0.05, exact=True).upper == pytest.approx(3 / 300, rel=0.01)


def test_wilson_bounds_are_scipys() -> None:
    interval = stats.binomtest(180, 200).proportion_ci(confidence_level=0.90, method="wilson")
    found = binomial_bounds(180, 200, 0.05, exact=False)
    assert (found.lower, found.upper) == pytest.approx((interval.low, interval.high))


def test_the_bootstrap_over_kinds_is_the_bootstrap_over_clusters() -> None:
    """Drawn in two ways, with a standard error that theory gives."""
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, 0.0, 1.0], size=900, p=[0.05, 0.85, 0.10])
    groups = [f"g{index // 3}" for index in range(900)]
    sample = cluster(values.tolist(), groups)
    means = bootstrap_means(sample, resamples=20_000, seed=2)
    index = rng.integers(0, sample.n, (20_000, sample.n))
    direct = np.sort(sample.sums[index].sum(axis=1) / sample.sizes[index].sum(axis=1))
    assert means.mean() == pytest.approx(values.mean(), abs=2e-4)
    assert means.std() == pytest.approx(direct.std(), rel=0.03)
    for level in (0.05, 0.95):  # means come in steps of 1/900
        assert np.quantile(means, level) == pytest.approx(np.quantile(direct, level), abs=1.2e-3)


def test_items_that_fail_together_widen_the_bounds() -> None:
    values = [float(index // 10 % 10 != 0) for index in range(1_000)]
    options = {"alpha": 0.05, "resamples": 10_000, "seed": 1, "exact": False}
    alone = rate_bounds(values, [str(i) for i in range(1_000)], **options)  # type: ignore[arg-type]
    together = rate_bounds(values, [str(i // 10) for i in range(1_000)], **options)  # type: ignore[arg-type]
    assert together.estimate == alone.estimate == pytest.approx(0.9)
    # Ten items that are one: the standard error is sqrt(10) times as large.
    widening = (0.9 - together.lower) / (0.9 - alone.lower)
    assert widening == pytest.approx(math.sqrt(10), rel=0.15)


def test_paired_bounds_stay_open_when_nothing_disagrees() -> None:
    assert adjusted_wald(0, 0, 60, 0.05).lower == pytest.approx(-1.645 / 62, rel=0.01)


@pytest.mark.parametrize("difference", [0.0, 0.03])
def test_paired_bounds_cover_the_difference(difference: float) -> None:
    rng = np.random.default_rng(4)
    n, runs = 500, 2_000
    shares = [0.04 + difference, 0.04, 0.92 - difference]
    counts = rng.multinomial(n, shares, size=runs)
    missed = sum(
        adjusted_wald(int(better), int(worse), n, 0.05).lower > difference
        for better, worse, _ in counts
    )
    assert missed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_quantile_bounds_cover_the_p95() -> None:
    rng = np.random.default_rng(6)
    truth, runs = -math.log(0.05), 1_000
    found = [quantile_bounds(rng.exponential(size=200).tolist(), 0.95, 0.05) for _ in range(runs)]
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert sum(bounds.upper < truth for bounds in found) / runs <= limit
    assert sum(bounds.lower > truth for bounds in found) / runs <= limit


def test_the_largest_of_58_values_is_no_bound_of_the_p95() -> None:
    values = [float(index) for index in range(59)]
    assert math.isinf(quantile_bounds(values[:58], 0.95, 0.05).upper)
    assert quantile_bounds(values, 0.95, 0.05).upper == 58.0
