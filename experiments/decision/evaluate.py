"""From aggregates to evidence: run the statistics that a decision rests on."""

import dataclasses
import math

from experiments.decision.evidence import (
    Evidence,
    Health,
    MetricEvidence,
    MetricRole,
    Progress,
)
from experiments.decision.summary import Arms, DecidedMetric, DecisionSummary, PeriodSpec
from experiments.stats.analysis import MetricInput, Sequential, SequentialMethod, analyze
from experiments.stats.comparison import Alternative, Comparison
from experiments.stats.distributions import norm_isf
from experiments.stats.errors import InvalidStatistic, StatisticsError
from experiments.stats.moments import ProportionStats
from experiments.stats.proportions import compare as compare_proportions
from experiments.stats.sequential import DEFAULT_N_STAR, check_burn_in
from experiments.stats.srm import (
    PeriodUnits,
    chi2_srm,
    moving_split_chi2,
    moving_split_srm,
    sequential_srm,
)

DETECTABLE_POWER = 0.8
"""Power at which the detectable effect is stated; the convention of the plans."""


def evaluate(summary: DecisionSummary) -> Evidence:
    """Compute the evidence of an experiment.

    Args:
        summary: Validated aggregates.

    Returns:
        Evidence for `engine.decide`. A comparison that is refused becomes a `problem`.

    Raises:
        InvalidStatistic: If sums cannot come from data; that is a wrong file, not a finding.
    """
    return Evidence(
        experiment=summary.experiment,
        alpha=summary.alpha,
        health=_health(summary),
        progress=Progress(
            planned_units=summary.plan.units,
            runtime_days=summary.runtime_days,
            max_runtime_days=summary.plan.max_runtime_days,
        ),
        metrics=tuple(_metric(metric, summary) for metric in summary.metrics),
        events_sha256=summary.events_sha256,
    )


def _health(summary: DecisionSummary) -> Health:
    counts, weights = _by_arm(summary.exposures), summary.allocation.model_dump()
    looks = [_by_arm(look) for look in summary.looks]
    if summary.periods:
        periods = [_period(period) for period in summary.periods]
        chi2_p, sequential_p = moving_split_chi2(periods), moving_split_srm(periods).p_value
    else:
        chi2_p = chi2_srm(counts, weights).p_value
        sequential_p = sequential_srm([*looks, counts], weights).p_value
    missing = summary.health.missing_outcomes or Arms(control=0, treatment=0)
    missing_p = 1.0
    if min(counts.values()) > 0:
        missing_p = compare_proportions(
            ProportionStats(n=counts["control"], successes=missing.control),
            ProportionStats(n=counts["treatment"], successes=missing.treatment),
        ).p_value
    return Health(
        n_control=counts["control"],
        n_treatment=counts["treatment"],
        srm_chi2_p=chi2_p,
        srm_sequential_p=sequential_p,
        multi_exposed_units=summary.health.multi_exposed_units,
        missing_control=missing.control,
        missing_treatment=missing.treatment,
        missing_p=missing_p,
        conflicts=summary.health.conflicts,
    )


def _period(period: PeriodSpec) -> PeriodUnits:
    units, shares = period.exposures, period.allocation
    share = shares.treatment / (shares.control + shares.treatment)
    return PeriodUnits(units.control, units.treatment, share)


def _metric(metric: DecidedMetric, summary: DecisionSummary) -> MetricEvidence:
    n_star = float(summary.plan.units or DEFAULT_N_STAR)
    base = MetricEvidence(
        name=metric.name,
        role=metric.role,
        direction=metric.direction,
        population=metric.population,
        effect_kind=metric.effect,
        margin=metric.margin,
        score=metric.score,
        problem="NOT_COMPUTED",
    )
    try:
        given = metric.metric_input(summary.alpha, default_n_star=n_star)
        if "sequential" not in metric.model_fields_set and metric.method is None:
            given = dataclasses.replace(given, sequential=Sequential(n_star=n_star))
        _burn_in(given)
        result = _guardrail(given) if metric.role is MetricRole.GUARDRAIL else analyze(given)
    except InvalidStatistic:
        raise
    except StatisticsError as error:
        return dataclasses.replace(base, problem=error.code, problem_detail=str(error))
    return dataclasses.replace(
        base,
        problem=None,
        effect=result.effect,
        ci_lower=_finite(result.ci_lower),
        ci_upper=_finite(result.ci_upper),
        standard_error=_finite(result.standard_error),
        p_value=result.p_value,
        method=result.method,
        always_valid=result.always_valid,
        n_control=result.n_control,
        n_treatment=result.n_treatment,
        control=_finite(result.control),
        treatment=_finite(result.treatment),
        detectable_effect=_detectable(result),
    )


def _guardrail(metric: MetricInput) -> Comparison:
    """Bound harm and benefit by one one-sided interval each, at alpha each.

    Passing and breaching are two one-sided tests; a two-sided interval would spend half of alpha on
    the question that is not asked.
    """
    low = analyze(dataclasses.replace(metric, alternative=Alternative.GREATER))
    high = analyze(dataclasses.replace(metric, alternative=Alternative.LESS))
    return dataclasses.replace(
        low,
        ci_upper=high.ci_upper,
        p_value=min(1.0, 2.0 * min(low.p_value, high.p_value)),
        method=f"{low.method}_one_sided_pair",
    )


def _burn_in(metric: MetricInput) -> None:
    plan, control, treatment = metric.sequential, metric.control, metric.treatment
    if plan is None or plan.method is not SequentialMethod.ASYMPTOTIC_CS:
        return
    if control is None or treatment is None:
        n_control = sum(stratum.control.n for stratum in metric.strata)
        n_treatment = sum(stratum.treatment.n for stratum in metric.strata)
        check_burn_in(n_control, n_treatment)
        return
    events: tuple[int, ...] = ()
    if isinstance(control, ProportionStats) and isinstance(treatment, ProportionStats):
        events = (
            control.successes,
            control.n - control.successes,
            treatment.successes,
            treatment.n - treatment.successes,
        )
    check_burn_in(control.n, treatment.n, events=events)


def _detectable(result: Comparison) -> float | None:
    ends = [end for end in (result.ci_lower, result.ci_upper) if math.isfinite(end)]
    if not ends or not result.standard_error > 0:
        return None
    half = max(abs(end - result.effect) for end in ends)
    return half + norm_isf(1.0 - DETECTABLE_POWER) * result.standard_error


def _by_arm(arms: Arms) -> dict[str, int]:
    return {"control": arms.control, "treatment": arms.treatment}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
