"""Pick and run the method for one metric of one comparison."""

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from experiments.stats import (
    bernoulli,
    cuped,
    cuped_ratio,
    hedged_rates,
    means,
    proportions,
    relative,
    repeated,
    sequential,
    stratified,
)
from experiments.stats.comparison import Alternative, Comparison, Effect
from experiments.stats.cuped import CupedStats
from experiments.stats.cuped_ratio import CupedRatioStats
from experiments.stats.effects import EffectEstimate, estimate_effect
from experiments.stats.errors import InvalidStatistic, StatisticsError
from experiments.stats.group_sequential import Spending
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.proportions import ProportionMethod
from experiments.stats.quantile import QuantileStats
from experiments.stats.ratio import RatioStats

Arm = MeanStats | ProportionStats | RatioStats | QuantileStats | CupedStats | CupedRatioStats
"""Everything an arm can be reduced to."""


class Method(StrEnum):
    """Fixed-horizon method, when the default is not wanted."""

    WELCH_T = "welch_t"
    WELCH_Z = "welch_z"
    STUDENT_T = "student_t"
    FIELLER = "fieller"
    LOG_RATIO = "log_ratio"
    CHI2_NEWCOMBE = "chi2_newcombe"
    CHI2_YATES_NEWCOMBE = "chi2_yates_newcombe"
    Z_POOLED = "z_pooled"
    Z_UNPOOLED = "z_unpooled"


class SequentialMethod(StrEnum):
    """How repeated looks are paid for."""

    ASYMPTOTIC_CS = "asymptotic_cs"
    """Asymptotic confidence sequence, the default: any number of looks."""
    GROUP_SEQUENTIAL = "group_sequential"
    """Spending function over declared looks."""
    BERNOULLI_EXACT = "bernoulli_exact"
    """Exact confidence sequences of two rates: rare events, from the first unit."""
    RATE_HEDGED = "rate_hedged"
    """Exact and asymptotic sequence at half of alpha each: rates of unknown size."""
    MSPRT = "msprt"
    """Statsig's mixture SPRT, for comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """Settings of a sequential method, fixed before the experiment."""

    method: SequentialMethod = SequentialMethod.ASYMPTOTIC_CS
    n_star: float = sequential.DEFAULT_N_STAR
    """Units of both arms where the confidence sequence is tightest: the planned size."""
    fractions: tuple[float, ...] = ()
    """Group sequential: information fractions of the looks so far, this one last."""
    spending: Spending = Spending.OBRIEN_FLEMING
    phi: float = 2.0
    """Exponent of the power spending family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInput:
    """One metric to be analysed."""

    name: str
    control: Arm | None = None
    treatment: Arm | None = None
    strata: tuple[stratified.Stratum, ...] = ()
    """Arms per stratum for post-stratification, instead of `control` and `treatment`."""
    alpha: float = 0.05
    effect: Effect = Effect.ABSOLUTE
    alternative: Alternative = Alternative.TWO_SIDED
    method: Method | None = None
    """Fixed-horizon variant; None for the default of the kind of metric."""
    sequential: Sequential | None = None
    """None for one look at a fixed horizon."""


def analyze(metric: MetricInput) -> Comparison:
    """Compare the arms of one metric.

    Fixed horizon (`sequential` is None): a proportion's absolute effect by `proportions.compare`
    (chi-squared, Newcombe); everything else by Welch's t on the effect and standard error of that
    kind of metric, unless `method` names a variant. Sequential: the same effect and standard error
    inside a confidence sequence or a repeated interval.

    Args:
        metric: Arms and choices.

    Returns:
        The comparison.

    Raises:
        StatisticsError: If the input allows no answer, or method and metric do not fit.
    """
    try:
        result = _analyze(metric)
    except ArithmeticError as error:
        raise _out_of_range(metric) from error
    except StatisticsError:
        raise
    except ValueError as error:  # an alpha or a look that the method does not allow
        raise InvalidStatistic(f"metric {metric.name!r}: {error}") from error
    numbers = (result.effect, result.standard_error, result.p_value)
    if not all(map(math.isfinite, numbers)) or math.isnan(result.ci_lower + result.ci_upper):
        raise _out_of_range(metric)
    return result


def _analyze(metric: MetricInput) -> Comparison:
    plan = metric.sequential
    if plan is None:
        return _fixed(metric)
    if metric.method is not None:
        raise InvalidStatistic(
            f"metric {metric.name!r} names both method {metric.method.value!r} and a sequential "
            "one; give one of them"
        )
    match plan.method:
        case SequentialMethod.ASYMPTOTIC_CS:
            made = sequential.confidence_sequence(
                estimate(metric),
                alpha=metric.alpha,
                effect=metric.effect,
                alternative=metric.alternative,
                n_star=plan.n_star,
            )
            if not metric.strata:
                return made
            return dataclasses.replace(made, method=f"post_stratified_{made.method}")
        case SequentialMethod.GROUP_SEQUENTIAL:
            return repeated.repeated_interval(
                estimate(metric),
                plan.fractions,
                alpha=metric.alpha,
                effect=metric.effect,
                alternative=metric.alternative,
                spending=plan.spending,
                phi=plan.phi,
            )
        case SequentialMethod.BERNOULLI_EXACT:
            control, treatment = _proportions(metric, plan.method.value)
            return bernoulli.compare(
                control, treatment, alpha=metric.alpha, alternative=metric.alternative
            )
        case SequentialMethod.RATE_HEDGED:
            control, treatment = _proportions(metric, plan.method.value)
            return hedged_rates.compare(
                control,
                treatment,
                alpha=metric.alpha,
                alternative=metric.alternative,
                n_star=plan.n_star,
            )
        case SequentialMethod.MSPRT:
            if metric.alternative is not Alternative.TWO_SIDED:
                raise InvalidStatistic("msprt is two-sided; use asymptotic_cs for one side")
            return sequential.msprt(estimate(metric), alpha=metric.alpha, effect=metric.effect)
        case _:
            assert_never(plan.method)


def estimate(metric: MetricInput) -> EffectEstimate:
    """Return effect and standard error of a metric, whatever its kind."""
    if metric.strata:
        return stratified.estimate_effect(metric.strata, metric.effect)
    match metric.control, metric.treatment:
        case CupedStats() as control, CupedStats() as treatment:
            arms = cuped.adjust(control, treatment)
            return estimate_effect(arms.control, arms.treatment, metric.effect)
        case CupedRatioStats() as control, CupedRatioStats() as treatment:
            return cuped_ratio.estimate_effect(control, treatment, metric.effect)
        case (
            (MeanStats() | ProportionStats() | RatioStats() | QuantileStats()) as control,
            (MeanStats() | ProportionStats() | RatioStats() | QuantileStats()) as treatment,
        ) if type(control) is type(treatment):
            return estimate_effect(control, treatment, metric.effect)
        case _:
            raise InvalidStatistic(
                f"metric {metric.name!r} needs two arms of one kind; got "
                f"{type(metric.control).__name__} and {type(metric.treatment).__name__}"
            )


def _fixed(metric: MetricInput) -> Comparison:
    is_rate = isinstance(metric.control, ProportionStats)
    match metric.method:
        case None if is_rate and metric.effect is Effect.ABSOLUTE:
            return _rates(metric, ProportionMethod.CHI2_NEWCOMBE)
        case (
            Method.CHI2_NEWCOMBE | Method.CHI2_YATES_NEWCOMBE | Method.Z_POOLED | Method.Z_UNPOOLED
        ) as method:
            return _rates(metric, ProportionMethod(method.value))
        case Method.STUDENT_T:
            if not (
                isinstance(metric.control, MeanStats) and isinstance(metric.treatment, MeanStats)
            ):
                raise _misfit(metric, "student_t", "means")
            if metric.effect is not Effect.ABSOLUTE:
                raise _misfit(metric, "student_t", "absolute effects")
            return means.student(
                metric.control,
                metric.treatment,
                alpha=metric.alpha,
                alternative=metric.alternative,
            )
        case (Method.FIELLER | Method.LOG_RATIO) as method:
            return _relative(metric, method)
        case (None | Method.WELCH_T | Method.WELCH_Z) as method:
            return _welch(metric, method)
        case _:
            assert_never(metric.method)


def _welch(metric: MetricInput, method: Method | None) -> Comparison:
    made = estimate(metric)
    name = "welch_t"
    if method is Method.WELCH_Z:
        made, name = made._replace(df=float("inf")), "welch_z"
    if metric.strata:
        name = f"post_stratified_{name}"
    elif isinstance(metric.control, CupedStats | CupedRatioStats):
        name = f"cuped_{name}"
    elif isinstance(metric.control, RatioStats):
        name = f"delta_{name}"
    elif isinstance(metric.control, QuantileStats):
        name = f"quantile_outer_ci_{name}"
    if metric.effect is Effect.RELATIVE:
        name += "_relative_delta"
    return means.studentised(
        made, alpha=metric.alpha, effect=metric.effect, alternative=metric.alternative, method=name
    )


def _relative(metric: MetricInput, method: Method) -> Comparison:
    plain = MeanStats | ProportionStats | RatioStats | QuantileStats
    if metric.effect is not Effect.RELATIVE:
        raise _misfit(metric, method.value, "relative effects")
    if not (isinstance(metric.control, plain) and isinstance(metric.treatment, plain)):
        raise _misfit(metric, method.value, "means, proportions, ratios and quantiles")
    function = relative.fieller if method is Method.FIELLER else relative.log_ratio
    return function(
        metric.control, metric.treatment, alpha=metric.alpha, alternative=metric.alternative
    )


def _rates(metric: MetricInput, method: ProportionMethod) -> Comparison:
    control, treatment = _proportions(metric, method.value)
    return proportions.compare(
        control, treatment, alpha=metric.alpha, alternative=metric.alternative, method=method
    )


def _proportions(metric: MetricInput, method: str) -> tuple[ProportionStats, ProportionStats]:
    if metric.effect is not Effect.ABSOLUTE:
        raise _misfit(metric, method, "absolute effects")
    control, treatment = metric.control, metric.treatment
    if not (isinstance(control, ProportionStats) and isinstance(treatment, ProportionStats)):
        raise _misfit(metric, method, "proportions")
    return control, treatment


def _misfit(metric: MetricInput, method: str, allowed: str) -> InvalidStatistic:
    return InvalidStatistic(f"metric {metric.name!r}: method {method!r} is for {allowed} only")


def _out_of_range(metric: MetricInput) -> InvalidStatistic:
    return InvalidStatistic(
        f"metric {metric.name!r}: the sums are too large or too small for double precision; "
        "change the metric's unit"
    )
