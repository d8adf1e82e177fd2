"""Numbers of other engines' test suites and of papers, put through our functions."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.stats import sequential
from experiments.stats.analysis import analyze
from experiments.stats.bayes import effect_belief
from experiments.stats.comparison import Alternative, Effect
from experiments.stats.effects import estimate_effect
from experiments.stats.group_sequential import Spending, boundary, exit_probabilities
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.power import (
    Design,
    NullVariance,
    power_of,
    sample_size,
    sample_size_proportions,
)
from experiments.stats.quantile import QuantileStats
from experiments.stats.srm import chi2_srm
from experiments.stats.summary import Summary, finite_or_none

GOLDEN = Path(__file__).parents[3] / "golden" / "stats" / "published.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["source"] for case in CASES])
def test_published_comparison_is_reproduced(case: dict[str, Any]) -> None:
    summary = Summary.model_validate({"alpha": case["alpha"], "metrics": [case["metric"]]})
    result = analyze(summary.metrics[0].metric_input(summary.alpha))
    for field, expected in case["expected"].items():
        value = finite_or_none(getattr(result, field))
        if expected is None:
            assert value is None, field
        else:
            assert value == pytest.approx(expected, abs=case["absolute_tolerance"]), field


@pytest.mark.parametrize(
    ("spending", "fractions", "critical"),
    [
        # ldbounds / gsDesign (sfLDOF), K = 5, two-sided 0.05; Reboussin et al. (2000), table 1
        pytest.param(
            Spending.OBRIEN_FLEMING,
            [0.2, 0.4, 0.6, 0.8, 1.0],
            [4.8769, 3.3569, 2.6803, 2.2898, 2.0310],
            id="obrien-fleming type",
        ),
        # ldbounds / gsDesign (sfLDPocock)
        pytest.param(
            Spending.POCOCK,
            [0.2, 0.4, 0.6, 0.8, 1.0],
            [2.4380, 2.4268, 2.4101, 2.3966, 2.3859],
            id="pocock type",
        ),
    ],
)
def test_lan_demets_boundaries_match_published_tables(
    spending: Spending, fractions: list[float], critical: list[float]
) -> None:
    made = boundary(fractions, alpha=0.05, spending=spending)
    assert made.critical == pytest.approx(critical, abs=6e-4)


def test_power_family_matches_spotify_confidence() -> None:
    # Spotify confidence, tests/frequentist/test_bounds.py, compute_sequential_adjusted_alpha
    fractions = [250 / 810, 450 / 810, 630 / 810, 1.0]
    made = boundary(fractions, alpha=0.01, spending=Spending.POWER, phi=2.0)
    assert made.nominal == pytest.approx([0.00095, 0.00241, 0.00410, 0.00636], abs=1e-5)


@pytest.mark.parametrize(
    ("looks", "pocock", "obrien_fleming"),
    # Jennison & Turnbull (2000), tables 2.1 and 2.3, two-sided alpha = 0.05
    [(2, 2.178, 1.977), (3, 2.289, 2.004), (5, 2.413, 2.040), (10, 2.555, 2.087)],
)
def test_classical_constants_cross_with_probability_alpha(
    looks: int, pocock: float, obrien_fleming: float
) -> None:
    fractions = [k / looks for k in range(1, looks + 1)]
    flat = exit_probabilities(fractions, [pocock] * looks)
    falling = [obrien_fleming * math.sqrt(looks / k) for k in range(1, looks + 1)]
    assert sum(flat) == pytest.approx(0.05, abs=1.2e-4)
    assert sum(exit_probabilities(fractions, falling)) == pytest.approx(0.05, abs=1.2e-4)


def test_normal_mixture_matches_confseq() -> None:
    # confseq, test/uniform_boundaries_unittest.cpp, TestTwoSidedNormalMixture
    bound = sequential.normal_mixture_bound(100.0, alpha=0.05, variance_star=100.0)
    assert bound == pytest.approx(30.35209, abs=1e-5)
    # ... and best_rho(100, 0.05) = 12.60056 there is 1 / rho^2 here
    assert 1.0 / sequential.optimal_rho(0.05, 100.0) ** 2 == pytest.approx(12.60056, abs=1e-4)


def test_exact_rho_minimises_the_width_that_the_approximation_nearly_has() -> None:
    # statistics.md 2.7: the approximation costs 0.003 % of width
    def width(x: float) -> float:
        return math.sqrt(2.0 * (x + 1.0) / x * (0.5 * math.log1p(x) - math.log(0.05)))

    best = 1000.0 * sequential.exact_rho(0.05, 1000.0) ** 2
    near = 1000.0 * sequential.optimal_rho(0.05, 1000.0) ** 2
    assert width(best) < min(width(best * 0.99), width(best * 1.01))
    assert width(near) / width(best) - 1.0 < 1e-4


def test_price_of_looking_is_1_55_at_the_declared_size() -> None:
    # statistics.md, feature table: the sequence is 1.55 times the fixed interval at n_star
    ratio = sequential.critical_value(5000, alpha=0.05, n_star=5000) / 1.959964
    assert ratio == pytest.approx(1.55, abs=0.005)


def test_sample_ratio_matches_tea_tasting() -> None:
    # tea-tasting, tests/metrics/test_proportion.py, test_sample_ratio_analyze_norm_no_corr
    result = chi2_srm({"control": 53, "treatment": 47}, {"control": 1, "treatment": 1})
    assert result.p_value == pytest.approx(0.5485062355001472, abs=1e-12)


@pytest.mark.parametrize(
    ("rate", "mde", "alpha", "power", "total", "tolerance"),
    # G*Power, quoted in Spotify confidence, tests/samplesize/test_samplesizecalculator.py with
    # the tolerances used there; their default power is 0.85
    [
        (0.34, 0.003, 0.05, 0.85, 897348, 0.005),
        (0.34, 0.1, 0.05, 0.85, 852, 0.07),
        (0.34, 0.003, 0.14, 0.85, 630710, 0.005),
        (0.34, 0.003, 0.14, 0.67, 366424, 0.005),
    ],
)
def test_sample_size_of_proportions_matches_gpower(
    rate: float, mde: float, alpha: float, power: float, total: int, tolerance: float
) -> None:
    size = sample_size_proportions(rate, mde, Design(alpha=alpha, power=power))
    assert size.total == pytest.approx(total, rel=tolerance)


def test_sample_size_of_means_matches_gpower() -> None:
    # the same file, test_continuous_default
    assert sample_size(0.3, 100.0, 100.0, Design(power=0.85)).total == pytest.approx(
        39906, rel=1e-4
    )


def test_power_matches_gpower() -> None:
    # Spotify confidence, tests/frequentist/test_chisquared.py, test_power_calculation_continuous
    error = math.sqrt(45.0 / 859896 + 45.0 / 859896)
    assert power_of(0.03, error, Design()) == pytest.approx(0.8345828, abs=1e-3)


@pytest.mark.parametrize(
    ("treatment_share", "null", "total"),
    # statistics.md 0.1: 2,496 and 6,619 (unpooled), 1,251 per arm (pooled)
    [
        (0.5, NullVariance.POOLED, 2502),
        (0.5, NullVariance.UNPOOLED, 2496),
        (0.1, NullVariance.UNPOOLED, 6619),
    ],
)
def test_planned_sizes_of_the_reference_example(
    treatment_share: float, null: NullVariance, total: int
) -> None:
    design = Design(share_control=1.0 - treatment_share, share_treatment=treatment_share)
    size = sample_size_proportions(0.70, 0.05, design, null_variance=null)
    assert size.total == pytest.approx(total, abs=2)


def test_one_sided_sequence_is_narrower_on_its_side() -> None:
    two = sequential.critical_value(5000, alpha=0.05, n_star=5000)
    one = sequential.critical_value(5000, alpha=0.05, n_star=5000, two_sided=False)
    assert one < two
    p = sequential.sequential_p(
        one, 5000, alpha=0.05, n_star=5000, alternative=Alternative.GREATER
    ).p_value
    assert p == pytest.approx(0.05, rel=1e-9)


# GrowthBook packages/stats, tests/bayesian/test_tests.py
P90 = (
    QuantileStats(
        n_observations=11054,
        n_ranks=11054,
        level=0.9,
        value=7.157987489967789,
        lower=7.098780136176828,
        upper=7.217194843758751,
    ),
    QuantileStats(
        n_observations=10861,
        n_ranks=10861,
        level=0.9,
        value=7.694499927525767,
        lower=7.64180598628119,
        upper=7.747193868770344,
    ),
)
GAUSSIAN = (
    MeanStats(n=10, sum=100, sum_squares=1002.25),
    MeanStats(n=10, sum=105, sum_squares=1111.5),
)


@pytest.mark.parametrize(
    ("arms", "prior", "expected"),
    [
        # TestBinom.test_bayesian_binomial_ab_test
        (
            (ProportionStats(n=100, successes=49), ProportionStats(n=100, successes=51)),
            (0.0, math.inf),
            (0.04082, 0.14725, 0.60918, 0.0814, 0.04058, -0.24779, 0.32943),
        ),
        # TestNorm.test_bayesian_gaussian_ab_test, and with an informative prior
        (GAUSSIAN, (0.0, math.inf), (0.05, 0.03572, 0.91923, 0.05131, 0.00131, -0.02, 0.12)),
        (
            GAUSSIAN,
            (0.1, math.sqrt(0.1)),
            (0.05063, 0.03549, 0.92315, 0.05186, 0.00123, -0.01893, 0.12019),
        ),
    ],
)
def test_effect_belief_matches_growthbook(
    arms: tuple[MeanStats, MeanStats], prior: tuple[float, float], expected: tuple[float, ...]
) -> None:
    estimate = estimate_effect(*arms, Effect.RELATIVE)
    found = effect_belief(
        estimate.effect, estimate.standard_error, prior_mean=prior[0], prior_sd=prior[1]
    )
    values = (
        found.mean,
        found.sd,
        found.chance_to_win,
        found.risk_control,
        found.risk_treatment,
        found.ci_lower,
        found.ci_upper,
    )
    assert values == pytest.approx(expected, abs=5.1e-6)


def test_quantile_effect_matches_growthbook() -> None:
    # TestEffectBayesianABTest.test_bayesian_effect_ab_test of the same file
    absolute = estimate_effect(*P90)
    flat = effect_belief(absolute.effect, absolute.standard_error)
    interval = (flat.ci_lower, flat.ci_upper)
    assert interval == pytest.approx((0.4572559589115422, 0.6157689162044128), abs=1e-13)
    relative = estimate_effect(*P90, Effect.RELATIVE)
    wide = effect_belief(relative.effect, relative.standard_error, prior_sd=1e3)
    interval = (wide.ci_lower, wide.ci_upper)
    assert interval == pytest.approx((0.06341005842481906, 0.08649588602990732), abs=1e-13)
    informative = effect_belief(relative.effect, relative.standard_error, prior_sd=1.0)
    assert informative.mean == pytest.approx(0.07495037261804469, abs=1e-14)
