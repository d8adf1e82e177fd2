"""What must hold for all inputs: merging, symmetry, duality, monotonicity, refusals."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.stats import bernoulli, means, proportions, relative, sequential, srm
from experiments.stats.analysis import MetricInput, Sequential, SequentialMethod, analyze
from experiments.stats.comparison import Alternative, Comparison, Effect
from experiments.stats.cuped import CupedStats, adjust
from experiments.stats.effects import EffectEstimate, estimate_effect
from experiments.stats.errors import (
    InvalidStatistic,
    StatisticsError,
    TooFewUnits,
    ZeroBaseline,
    ZeroVariance,
)
from experiments.stats.group_sequential import boundary, repeated_p_value, spent_alpha
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.multiplicity import benjamini_hochberg, holm
from experiments.stats.noninferiority import Direction, GuardrailState, non_inferiority
from experiments.stats.power import (
    Design,
    Monitoring,
    days_left,
    mde_proportions,
    minimum_detectable_effect,
    power_of,
    sample_size,
    sample_size_proportions,
)
from experiments.stats.proportions import ProportionMethod
from experiments.stats.quantile import QuantileStats, minimum_observations
from experiments.stats.ratio import RatioStats
from experiments.stats.stratified import Stratum
from experiments.stats.stratified import estimate_effect as stratified_effect
from experiments.stats.winsor import winsorise

VALUES = st.lists(st.integers(-1000, 1000).map(lambda i: i / 8), min_size=3, max_size=30)
PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=3, max_size=30)
ALPHAS = st.floats(0.001, 0.3)
FAST = settings(max_examples=60, deadline=None)


@st.composite
def rates(draw: st.DrawFn, smallest: int = 1, largest: int = 5000) -> ProportionStats:
    n = draw(st.integers(smallest, largest))
    return ProportionStats(n=n, successes=draw(st.integers(0, n)))


def spread(values: list[float]) -> bool:
    return len(set(values)) > 1


@FAST
@given(VALUES, VALUES)
def test_adding_means_pools_their_units(a: list[float], b: list[float]) -> None:
    merged = MeanStats.from_values(a) + MeanStats.from_values(b)
    pooled = MeanStats.from_values(a + b)
    assert merged.estimate == pytest.approx(pooled.estimate, abs=1e-12)
    assert merged.variance == pytest.approx(pooled.variance, rel=1e-12, abs=1e-12)


@FAST
@given(PAIRS, PAIRS)
def test_adding_ratios_pools_their_units(
    a: list[tuple[float, float]], b: list[tuple[float, float]]
) -> None:
    merged = RatioStats.from_pairs(a) + RatioStats.from_pairs(b)
    assert merged == RatioStats.from_pairs(a + b)


@FAST
@given(rates(), rates())
def test_adding_rates_pools_their_units(a: ProportionStats, b: ProportionStats) -> None:
    assert (a + b).estimate == (a.successes + b.successes) / (a.n + b.n)


@FAST
@given(VALUES, VALUES)
def test_swapping_the_arms_mirrors_the_absolute_comparison(a: list[float], b: list[float]) -> None:
    assume(spread(a) or spread(b))
    arms = MeanStats.from_values(a), MeanStats.from_values(b)
    forward, backward = means.compare(*arms), means.compare(*reversed(arms))
    assert forward.effect == -backward.effect
    assert forward.ci_lower == pytest.approx(-backward.ci_upper)
    assert forward.p_value == pytest.approx(backward.p_value)


@FAST
@given(rates(), rates())
def test_swapping_the_arms_mirrors_newcombe(a: ProportionStats, b: ProportionStats) -> None:
    forward, backward = proportions.compare(a, b), proportions.compare(b, a)
    assert forward.ci_lower == pytest.approx(-backward.ci_upper, abs=1e-12)
    assert forward.p_value == pytest.approx(backward.p_value)
    assert -1.0 <= forward.ci_lower <= forward.effect <= forward.ci_upper <= 1.0


@FAST
@given(st.integers(1, 500), st.integers(1, 500))
def test_swapping_the_arms_inverts_the_log_ratio(x: int, y: int) -> None:
    a = MeanStats(n=100, sum=float(x), sum_squares=float(x * x))
    b = MeanStats(n=100, sum=float(y), sum_squares=float(y * y))
    forward, backward = relative.log_ratio(a, b), relative.log_ratio(b, a)
    assert 1 + forward.ci_lower == pytest.approx(1 / (1 + backward.ci_upper), rel=1e-9)


def _dual(result: Comparison) -> None:
    excludes_zero = result.ci_lower > 0 or result.ci_upper < 0
    if abs(result.p_value - result.alpha) > 1e-9:
        assert excludes_zero == (result.p_value < result.alpha)


@FAST
@given(VALUES, VALUES, ALPHAS, st.sampled_from(Alternative), st.sampled_from(Effect))
def test_welch_interval_and_p_value_agree(
    a: list[float], b: list[float], alpha: float, alternative: Alternative, effect: Effect
) -> None:
    assume(spread(a) and abs(sum(a)) > 1e-3)
    arms = MeanStats.from_values(a), MeanStats.from_values(b)
    _dual(means.compare(*arms, alpha=alpha, alternative=alternative, effect=effect))


@FAST
@given(
    st.floats(-6, 6),
    st.integers(200, 100_000),
    ALPHAS,
    st.sampled_from(Alternative),
    st.floats(100, 50_000),
)
def test_confidence_sequence_and_p_value_agree(
    z: float, n: int, alpha: float, alternative: Alternative, n_star: float
) -> None:
    estimate = EffectEstimate(z, 1.0, math.inf, n // 2, n - n // 2, 0.0, z)
    _dual(
        sequential.confidence_sequence(
            estimate, alpha=alpha, alternative=alternative, n_star=n_star
        )
    )


@FAST
@given(rates(), rates(), ALPHAS, st.sampled_from(Alternative))
def test_exact_bernoulli_interval_and_p_value_agree(
    a: ProportionStats, b: ProportionStats, alpha: float, alternative: Alternative
) -> None:
    result = bernoulli.compare(a, b, alpha=alpha, alternative=alternative)
    if abs(result.p_value / alpha - 1.0) > 1e-6:
        _dual(result)


@FAST
@given(rates(), rates(), ALPHAS)
def test_z_unpooled_interval_and_p_value_agree(
    a: ProportionStats, b: ProportionStats, alpha: float
) -> None:
    assume(a.variance + b.variance > 0)
    try:
        result = proportions.compare(a, b, alpha=alpha, method=ProportionMethod.Z_UNPOOLED)
    except ZeroVariance:
        return
    _dual(result)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 4.5), st.integers(1, 4))
def test_repeated_interval_and_p_value_agree(z: float, looks: int) -> None:
    fractions = [k / 4 for k in range(1, looks + 1)]
    critical = boundary(fractions).critical[-1]
    assume(abs(z - critical) > 1e-4)
    assert (repeated_p_value(z, fractions) < 0.05) == (z > critical)


@FAST
@given(ALPHAS, ALPHAS, st.sampled_from(SequentialMethod))
def test_smaller_alpha_widens_every_interval(
    one: float, two: float, method: SequentialMethod
) -> None:
    assume(abs(one - two) > 1e-3)
    small, large = sorted((one, two))
    # Statsig's mixing variance shrinks with alpha, which turns the curve above 0.29.
    assume(method is not SequentialMethod.MSPRT or large < 0.25)
    fractions = (0.5,) if method is SequentialMethod.GROUP_SEQUENTIAL else ()

    def width(alpha: float) -> float:
        metric = MetricInput(
            name="rate",
            control=ProportionStats(n=800, successes=300),
            treatment=ProportionStats(n=700, successes=310),
            alpha=alpha,
            sequential=Sequential(method=method, n_star=1500, fractions=fractions),
        )
        result = analyze(metric)
        return result.ci_upper - result.ci_lower

    assert width(small) > width(large)


@FAST
@given(st.floats(0.001, 0.2), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6, unique=True))
def test_spending_is_monotone_and_never_beyond_alpha(alpha: float, times: list[float]) -> None:
    spent = [spent_alpha(t, alpha=alpha) for t in sorted(times)]
    assert spent == sorted(spent)
    assert spent[-1] <= alpha * (1 + 1e-12)
    assert spent_alpha(1.0, alpha=alpha) == pytest.approx(alpha)


@FAST
@given(st.floats(0.05, 0.9), st.floats(0.01, 0.09), st.floats(0.05, 0.95))
def test_planned_size_reaches_its_power_and_shrinks_with_the_effect(
    rate: float, mde: float, share: float
) -> None:
    design = Design(share_control=1 - share, share_treatment=share)
    size = sample_size_proportions(rate, mde, design)
    assert size.total > sample_size_proportions(rate, mde * 1.05, design).total - 1
    other = rate + mde
    error = math.sqrt(rate * (1 - rate) / size.control + other * (1 - other) / size.treatment)
    pooled = (1 - share) * rate + share * other
    null = math.sqrt(pooled * (1 - pooled) * (1 / size.control + 1 / size.treatment))
    assert power_of(mde, error, design, null_error=null) >= 0.8 - 1e-6


@FAST
@given(st.floats(0.05, 0.6), st.integers(2000, 200_000))
def test_detectable_effect_inverts_the_sample_size(rate: float, units: int) -> None:
    mde = mde_proportions(units, rate, Design())
    assert sample_size_proportions(rate, mde, Design()).total == pytest.approx(units, abs=2)


def test_detectable_mean_inverts_the_sample_size() -> None:
    for monitoring in Monitoring:
        design = Design(share_control=0.8, share_treatment=0.2, monitoring=monitoring)
        size = sample_size(0.1, 2.0, 3.0, design)
        mde = minimum_detectable_effect(size.total, 2.0, 3.0, design)
        assert mde == pytest.approx(0.1, rel=1e-3)


def test_days_left_rounds_up_and_stops_at_zero() -> None:
    assert days_left(1000, 400, 100) == 6
    assert days_left(1000, 401, 100) == 6
    assert days_left(1000, 2000, 100) == 0


@FAST
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_never_lower_a_p_value_and_keep_the_order(p_values: list[float]) -> None:
    for correction in (holm, benjamini_hochberg):
        adjusted = correction(p_values)
        assert all(a >= p - 1e-12 for a, p in zip(adjusted, p_values, strict=True))
        order = sorted(range(len(p_values)), key=lambda i: p_values[i])
        in_order = [adjusted[i] for i in order]
        assert in_order == sorted(in_order)
    assert all(
        h >= b - 1e-12 for h, b in zip(holm(p_values), benjamini_hochberg(p_values), strict=True)
    )


@FAST
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_srm_does_not_depend_on_the_order_of_arms(a: int, b: int) -> None:
    forward = srm.log_bayes_factor({"a": a, "b": b}, {"a": 9, "b": 1})
    backward = srm.log_bayes_factor({"b": b, "a": a}, {"b": 0.1, "a": 0.9})
    assert forward == pytest.approx(backward, abs=1e-8)


def test_cuped_with_an_unrelated_covariate_changes_almost_nothing() -> None:
    metric = MeanStats.from_values([1.0, 2.0, 3.0, 4.0] * 50)
    covariate = MeanStats.from_values([1.0, -1.0, -1.0, 1.0] * 50)
    arm = CupedStats(metric=metric, covariate=covariate, sum_products=0.0)
    adjusted = adjust(arm, arm)
    assert adjusted.theta == 0.0
    assert adjusted.variance_reduction == 0.0


def test_one_stratum_is_the_plain_comparison() -> None:
    a = MeanStats.from_values([1.0, 2.0, 4.0, 3.0])
    b = MeanStats.from_values([2.0, 2.5, 4.0, 6.0])
    for effect in Effect:
        plain = estimate_effect(a, b, effect)
        stratified = stratified_effect([Stratum(a, b)], effect)
        assert stratified.effect == pytest.approx(plain.effect)
        assert stratified.standard_error == pytest.approx(plain.standard_error)
        assert stratified.df == pytest.approx(plain.df)


def test_winsorising_uses_one_cap_for_both_arms() -> None:
    control = [0.0] * 50 + list(range(1, 51))
    capped = winsorise(control, [*control, 10_000.0], upper=0.99)
    assert capped.treatment.max() == capped.upper == 50.0
    assert capped.control.max() == 50.0
    assert capped.n_capped == 1


def test_means_far_above_their_spread_keep_their_variance() -> None:
    # Both sums are exact doubles, but sum^2 = 1e18 is not: the textbook expression is off by 5e-4
    arm = MeanStats.from_values([1e6, 1e6 + 1.0] * 500)
    assert arm.variance == pytest.approx(250.0 / 999.0, rel=1e-15)


def test_negative_baseline_keeps_the_sign_of_the_change() -> None:
    control = MeanStats.from_values([-10.0, -11.0, -9.0, -10.0])
    treatment = MeanStats.from_values([-8.0, -9.0, -7.0, -8.0])
    for compare in (
        lambda: means.compare(control, treatment, effect=Effect.RELATIVE),
        lambda: relative.fieller(control, treatment),
        lambda: relative.log_ratio(control, treatment),
    ):
        result = compare()
        assert result.effect == pytest.approx(0.2)
        assert result.ci_lower < 0.2 < result.ci_upper


@pytest.mark.parametrize(
    ("direction", "lower", "upper", "state"),
    [
        (Direction.INCREASE, -0.5, 2.0, GuardrailState.PASSED),
        (Direction.INCREASE, -1.5, 2.0, GuardrailState.OPEN),
        (Direction.INCREASE, -3.0, -1.1, GuardrailState.BREACHED),
        (Direction.DECREASE, -2.0, 0.5, GuardrailState.PASSED),
        (Direction.DECREASE, 1.1, 3.0, GuardrailState.BREACHED),
        (Direction.INCREASE, -0.9, -0.1, GuardrailState.PASSED),
    ],
)
def test_non_inferiority_compares_the_interval_with_the_margin(
    direction: Direction, lower: float, upper: float, state: GuardrailState
) -> None:
    result = Comparison(
        effect=(lower + upper) / 2,
        ci_lower=lower,
        ci_upper=upper,
        standard_error=1.0,
        p_value=0.5,
        method="m",
        effect_kind=Effect.ABSOLUTE,
        alternative=Alternative.TWO_SIDED,
        alpha=0.05,
        n_control=100,
        n_treatment=100,
        control=0.0,
        treatment=0.0,
    )
    assert non_inferiority(result, margin=1.0, direction=direction).state is state


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: MeanStats(n=-1, sum=0.0, sum_squares=0.0), InvalidStatistic),
        (lambda: MeanStats(n=2, sum=math.nan, sum_squares=1.0), InvalidStatistic),
        (lambda: MeanStats(n=2, sum=1396.87, sum_squares=52377.9767), InvalidStatistic),
        (lambda: MeanStats(n=0, sum=1.0, sum_squares=1.0), InvalidStatistic),
        (lambda: ProportionStats(n=3, successes=4), InvalidStatistic),
        (lambda: ProportionStats(n=0, successes=0).estimate, TooFewUnits),
        (lambda: MeanStats(n=1, sum=1.0, sum_squares=1.0).variance, TooFewUnits),
        (lambda: RatioStats.from_pairs([(1.0, 0.0), (2.0, 0.0)]).estimate, ZeroBaseline),
        (lambda: QuantileStats.from_values(range(72), 0.95), TooFewUnits),
        (lambda: winsorise([1.0, math.inf], [2.0]), InvalidStatistic),
        (lambda: srm.chi2_srm({"a": 1, "b": 1}, {"a": 1, "c": 1}), InvalidStatistic),
        (
            lambda: srm.sequential_srm([{"a": 5, "b": 5}, {"a": 4, "b": 5}], {"a": 1, "b": 1}),
            InvalidStatistic,
        ),
    ],
)
def test_impossible_input_is_refused(make: object, error: type[StatisticsError]) -> None:
    with pytest.raises(error):
        make()  # type: ignore[operator]


def test_constant_arms_and_zero_baselines_are_refused() -> None:
    flat = MeanStats.from_values([2.0, 2.0, 2.0])
    zero = MeanStats.from_values([-1.0, 1.0, 0.0])
    noisy = MeanStats.from_values([-1.0, 1.0, 0.3])
    with pytest.raises(ZeroVariance):
        means.compare(flat, flat)
    with pytest.raises(ZeroBaseline):
        means.compare(zero, noisy, effect=Effect.RELATIVE)
    with pytest.raises(ZeroBaseline):
        relative.fieller(noisy, flat)


def test_rates_without_events_still_bound_the_difference() -> None:
    none = ProportionStats(n=1000, successes=0)
    result = proportions.compare(none, none)
    assert result.p_value == 1.0
    assert 0.003 < result.ci_upper < 0.005


def test_quantiles_need_enough_observations() -> None:
    # statistics.md 2.6
    assert minimum_observations(0.95) == 73
    assert minimum_observations(0.99) == 381


def test_burn_in_is_refused_by_units_and_by_events() -> None:
    with pytest.raises(TooFewUnits, match="100 units"):
        sequential.check_burn_in(99, 500)
    with pytest.raises(TooFewUnits, match="bernoulli_exact"):
        sequential.check_burn_in(500, 500, events=(4, 496, 10, 490))


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(0, 10**9), st.floats(), st.floats()),
    st.tuples(st.integers(0, 10**9), st.floats(), st.floats()),
    st.sampled_from(Effect),
    st.sampled_from(Alternative),
    st.sampled_from([None, Sequential(), Sequential(method=SequentialMethod.MSPRT)]),
    st.floats(1e-9, 0.999),
)
def test_any_numbers_give_a_finite_answer_or_a_refusal(
    control: tuple[int, float, float],
    treatment: tuple[int, float, float],
    effect: Effect,
    alternative: Alternative,
    plan: Sequential | None,
    alpha: float,
) -> None:
    try:
        arms = [
            MeanStats(n=n, sum=total, sum_squares=squares)
            for n, total, squares in (control, treatment)
        ]
        result = analyze(
            MetricInput(
                name="m",
                control=arms[0],
                treatment=arms[1],
                effect=effect,
                alternative=alternative,
                sequential=plan,
                alpha=alpha,
            )
        )
    except StatisticsError:
        return
    assert math.isfinite(result.effect)
    assert result.standard_error >= 0
    assert 0.0 <= result.p_value <= 1.0
    assert result.ci_lower <= result.effect <= result.ci_upper
