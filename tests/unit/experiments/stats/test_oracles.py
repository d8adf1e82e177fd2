"""The same numbers as scipy and statsmodels, which are oracles in tests only."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import statsmodels.api
import statsmodels.stats.multitest
import statsmodels.stats.power
import statsmodels.stats.proportion as sm

from experiments.stats import cuped, means, proportions, relative
from experiments.stats.analysis import MetricInput, analyze
from experiments.stats.bayes import BetaPosterior, NormalPosterior, beliefs, effect_belief
from experiments.stats.comparison import Alternative, Effect
from experiments.stats.effects import estimate_effect
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.multiplicity import benjamini_hochberg, holm
from experiments.stats.power import Design, sample_size, sample_size_proportions
from experiments.stats.proportions import ProportionMethod, newcombe_interval, wilson_interval
from experiments.stats.quantile import QuantileStats
from experiments.stats.ratio import RatioStats
from experiments.stats.srm import chi2_srm

RNG = np.random.default_rng(7)
CONTROL = RNG.gamma(2.0, 1.5, 230)
TREATMENT = RNG.gamma(2.2, 1.6, 170)
ARMS = MeanStats.from_values(CONTROL), MeanStats.from_values(TREATMENT)
SIDES = list(Alternative)


@pytest.mark.parametrize("alternative", SIDES)
def test_welch_equals_scipy(alternative: Alternative) -> None:
    oracle = scipy.stats.ttest_ind(
        TREATMENT, CONTROL, equal_var=False, alternative=alternative.value
    )
    interval = oracle.confidence_interval(0.95)
    result = means.compare(*ARMS, alternative=alternative)
    assert result.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert result.df == pytest.approx(oracle.df, rel=1e-12)
    assert result.ci_lower == pytest.approx(interval.low, rel=1e-9)
    assert result.ci_upper == pytest.approx(interval.high, rel=1e-9)


@pytest.mark.parametrize("alternative", SIDES)
def test_student_equals_scipy(alternative: Alternative) -> None:
    oracle = scipy.stats.ttest_ind(TREATMENT, CONTROL, alternative=alternative.value)
    result = means.student(*ARMS, alternative=alternative)
    assert result.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert result.ci_lower == pytest.approx(oracle.confidence_interval().low, rel=1e-9)


@pytest.mark.parametrize(("a", "n"), [(12, 90), (0, 40), (40, 40), (1, 7)])
def test_wilson_equals_statsmodels(a: int, n: int) -> None:
    oracle = sm.proportion_confint(a, n, alpha=0.05, method="wilson")
    result = wilson_interval(ProportionStats(n=n, successes=a))
    assert tuple(result) == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize(("a", "n", "b", "m"), [(30, 100, 45, 120), (0, 50, 3, 60), (9, 10, 3, 10)])
def test_newcombe_equals_statsmodels(a: int, n: int, b: int, m: int) -> None:
    oracle = sm.confint_proportions_2indep(b, m, a, n, method="newcomb", compare="diff")
    result = newcombe_interval(ProportionStats(n=n, successes=a), ProportionStats(n=m, successes=b))
    assert tuple(result) == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("yates", [False, True])
def test_chi_squared_equals_scipy(yates: bool) -> None:
    control, treatment = ProportionStats(n=100, successes=30), ProportionStats(n=90, successes=40)
    table = [[30, 70], [40, 50]]
    oracle = scipy.stats.chi2_contingency(table, correction=yates)
    method = ProportionMethod.CHI2_YATES_NEWCOMBE if yates else ProportionMethod.CHI2_NEWCOMBE
    result = proportions.compare(control, treatment, method=method)
    assert result.p_value == pytest.approx(oracle.pvalue, rel=1e-9)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(
    ("alternative", "name"),
    [
        (Alternative.TWO_SIDED, "two-sided"),
        (Alternative.GREATER, "larger"),
        (Alternative.LESS, "smaller"),
    ],
)
def test_z_of_proportions_equals_statsmodels(
    pooled: bool, alternative: Alternative, name: str
) -> None:
    rates = np.array([40, 30]), np.array([90, 100])
    variance = False if pooled else None
    _, oracle = sm.proportions_ztest(*rates, alternative=name, prop_var=variance)
    if not pooled:
        p_b, p_a = rates[0] / rates[1]
        se = math.sqrt(p_b * (1 - p_b) / 90 + p_a * (1 - p_a) / 100)
        z = (p_b - p_a) / se
        tail = {"two-sided": 2 * scipy.stats.norm.sf(abs(z)), "larger": scipy.stats.norm.sf(z)}
        oracle = tail.get(name, scipy.stats.norm.cdf(z))
    method = ProportionMethod.Z_POOLED if pooled else ProportionMethod.Z_UNPOOLED
    result = proportions.compare(
        ProportionStats(n=100, successes=30),
        ProportionStats(n=90, successes=40),
        method=method,
        alternative=alternative,
    )
    assert result.p_value == pytest.approx(oracle, rel=1e-9)


def test_ratio_variance_is_cluster_robust_least_squares() -> None:
    # The ratio of sums is the coefficient of a weighted mean; CR0 with n / (n - 1) is the delta.
    requests = RNG.integers(1, 12, 400)
    successes = RNG.binomial(requests, RNG.beta(1.6, 0.7, 400))
    arm = RatioStats.from_pairs(zip(successes.tolist(), requests.tolist(), strict=True))
    sessions = zip(successes, requests, strict=True)
    outcome = np.concatenate([[1] * s + [0] * (r - s) for s, r in sessions])
    cluster = np.repeat(np.arange(400), requests)
    model = statsmodels.api.OLS(outcome, np.ones_like(outcome)).fit(
        cov_type="cluster", cov_kwds={"groups": cluster, "use_correction": False}
    )
    assert arm.estimate == pytest.approx(model.params[0], rel=1e-12)
    assert arm.variance / arm.n * 399 / 400 == pytest.approx(model.bse[0] ** 2, rel=1e-9)


def test_cuped_equals_the_regression_adjusted_difference() -> None:
    x = RNG.normal(10, 2, 2000)
    y = 0.8 * x + RNG.normal(0, 1, 2000)
    treated = RNG.random(2000) < 0.5
    y = y + 0.1 * treated
    arms = [
        cuped.CupedStats(
            metric=MeanStats.from_values(y[mask]),
            covariate=MeanStats.from_values(x[mask]),
            sum_products=float(y[mask] @ x[mask]),
        )
        for mask in (~treated, treated)
    ]
    adjusted = cuped.adjust(*arms)
    theta = np.cov(y, x)[0, 1] / np.var(x, ddof=1)
    assert adjusted.theta == pytest.approx(theta, rel=1e-9)
    result = means.compare(adjusted.control, adjusted.treatment)
    oracle = scipy.stats.ttest_ind(
        (y - theta * x)[treated], (y - theta * x)[~treated], equal_var=False
    )
    assert result.p_value == pytest.approx(oracle.pvalue, rel=1e-7)
    rho = np.corrcoef(y, x)[0, 1]
    assert adjusted.variance_reduction == pytest.approx(rho**2, abs=0.02)


def test_fieller_ends_solve_the_defining_equation() -> None:
    control, treatment = ARMS
    result = relative.fieller(control, treatment)
    t = scipy.stats.t.ppf(0.975, result.df)

    def excess(ratio: float) -> float:
        gap = treatment.estimate - ratio * control.estimate
        variance = treatment.variance / treatment.n + ratio**2 * control.variance / control.n
        return gap**2 - t**2 * variance

    centre = treatment.estimate / control.estimate
    low = scipy.optimize.brentq(excess, 0.3, centre)
    high = scipy.optimize.brentq(excess, centre, 4.0)
    assert (result.ci_lower, result.ci_upper) == pytest.approx((low - 1, high - 1), abs=1e-9)


def test_relative_delta_variance_agrees_with_the_bootstrap() -> None:
    result = means.compare(*ARMS, effect=Effect.RELATIVE)
    draws = [
        RNG.choice(TREATMENT, TREATMENT.size).mean() / RNG.choice(CONTROL, CONTROL.size).mean()
        for _ in range(4000)
    ]
    assert result.standard_error == pytest.approx(np.std(draws), rel=0.06)


def test_holm_and_benjamini_hochberg_equal_statsmodels() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.04, 1.0, 0.0]
    multipletests = statsmodels.stats.multitest.multipletests
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert benjamini_hochberg(p_values) == pytest.approx(
        scipy.stats.false_discovery_control(p_values)
    )


def test_srm_equals_scipy_chisquare() -> None:
    counts = {"a": 500, "b": 42, "c": 1005}
    weights = {"a": 0.33, "b": 0.02, "c": 0.65}
    expected = np.array([0.33, 0.02, 0.65]) * 1547
    oracle = scipy.stats.chisquare([500, 42, 1005], expected)
    result = chi2_srm(counts, weights)
    assert result.statistic == pytest.approx(oracle.statistic)
    assert result.p_value == pytest.approx(oracle.pvalue)


def test_srm_ignores_arms_without_weight() -> None:
    counts = {"a": 510, "b": 490, "off": 0}
    assert chi2_srm(counts, {"a": 1, "b": 1, "off": 0}).df == 1


@pytest.mark.parametrize("ratio", [1.0, 1 / 9, 3.0])
def test_sample_size_of_means_equals_statsmodels(ratio: float) -> None:
    power = statsmodels.stats.power.NormalIndPower()
    n_control = power.solve_power(effect_size=0.2, alpha=0.05, power=0.8, ratio=ratio)
    share = ratio / (1 + ratio)
    size = sample_size(0.2, 1.0, 1.0, Design(share_control=1 - share, share_treatment=share))
    assert size.control == math.ceil(n_control)


def test_sample_size_of_proportions_equals_statsmodels() -> None:
    n = sm.samplesize_proportions_2indep_onetail(0.05, 0.70, 0.8, ratio=1, alpha=0.05)
    size = sample_size_proportions(0.70, 0.05, Design())
    assert size.control == pytest.approx(n, abs=2)


def test_probability_to_be_best_equals_the_exact_sum() -> None:
    # P(B > A) = sum_i B(a_A + i, b_A + b_B) / ((b_B + i) B(1 + i, b_B) B(a_A, b_A)), Miller (2015)
    a, b = BetaPosterior(21, 81), BetaPosterior(31, 71)
    total = sum(
        math.exp(
            scipy.special.betaln(a.a + i, a.b + b.b)
            - math.log(b.b + i)
            - scipy.special.betaln(1 + i, b.b)
            - scipy.special.betaln(a.a, a.b)
        )
        for i in range(int(b.a))
    )
    assert beliefs({"a": a, "b": b})["b"].probability_best == pytest.approx(total, abs=1e-9)


def test_normal_beliefs_have_closed_forms() -> None:
    found = beliefs({"a": NormalPosterior(0.0, 1.0), "b": NormalPosterior(0.5, 2.0)})
    closed = effect_belief(0.5, math.sqrt(5.0))
    assert found["b"].probability_best == pytest.approx(closed.chance_to_win, abs=1e-9)
    assert found["b"].expected_loss == pytest.approx(closed.risk_treatment, abs=1e-9)
    assert found["a"].expected_loss == pytest.approx(closed.risk_control, abs=1e-9)


def test_expected_loss_matches_draws_for_three_arms() -> None:
    arms = {"a": BetaPosterior(51, 51), "b": BetaPosterior(61, 41), "c": BetaPosterior(3, 3)}
    draws = np.stack([RNG.beta(arm.a, arm.b, 400_000) for arm in arms.values()])
    found = beliefs(arms)
    for row, name in enumerate(arms):
        best = (draws.argmax(axis=0) == row).mean()
        assert found[name].probability_best == pytest.approx(best, abs=4e-3)
        loss = (draws.max(axis=0) - draws[row]).mean()
        assert found[name].expected_loss == pytest.approx(loss, abs=1e-3)


def test_quantile_standard_error_matches_the_sampling_distribution() -> None:
    samples = RNG.lognormal(0.0, 0.8, (600, 2000))
    truth = np.std(np.quantile(samples, 0.95, axis=1))
    arms = [QuantileStats.from_values(row, 0.95) for row in samples[:200]]
    errors = [math.sqrt(arm.variance / arm.n) for arm in arms]
    assert np.mean(errors) == pytest.approx(truth, rel=0.1)


def test_clustered_quantile_covers_where_the_plain_one_does_not() -> None:
    def arm(clustered: bool, rng: np.random.Generator) -> QuantileStats:
        sizes = rng.integers(1, 20, 150)
        level = np.repeat(rng.normal(0, 1, 150), sizes)
        sessions = np.repeat(np.arange(150), sizes).tolist()
        values = np.exp(level + rng.normal(0, 0.5, level.size))
        return QuantileStats.from_values(values, 0.9, sessions=sessions if clustered else None)

    rejected = {}
    for clustered in (True, False):
        rng = np.random.default_rng(3)
        results = [
            analyze(
                MetricInput(name="p90", control=arm(clustered, rng), treatment=arm(clustered, rng))
            )
            for _ in range(150)
        ]
        rejected[clustered] = sum(result.p_value < 0.05 for result in results) / 150
    assert rejected[True] < 0.11
    assert rejected[False] > 0.2


def test_estimate_needs_no_raw_data() -> None:
    result = estimate_effect(*ARMS)
    assert result.effect == pytest.approx(TREATMENT.mean() - CONTROL.mean())
