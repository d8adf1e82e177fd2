"""The single checks of a decision: each looks at one thing and says what it found."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.decision.evidence import Evidence, MetricEvidence, MetricRole, Population
from experiments.decision.policy import Policy
from experiments.decision.verdict import Reason, ReasonCode
from experiments.stats.multiplicity import holm
from experiments.stats.noninferiority import Direction, GuardrailState, judge

_TOO_FEW = "TOO_FEW_UNITS"
"""Problem code of `stats.errors.TooFewUnits`: time cures it, unlike the other problems."""


class Side(NamedTuple):
    """An interval turned so that positive is good."""

    effect: float
    worst: float
    best: float


def selected(evidence: Evidence, role: MetricRole) -> list[MetricEvidence]:
    """Return the metrics of a role in the population that decides."""
    return [
        metric
        for metric in evidence.metrics
        if metric.role is role and metric.population is Population.INTENTION_TO_TREAT
    ]


def side_of(metric: MetricEvidence) -> Side | None:
    """Return effect and interval with positive meaning better; None if there is no number."""
    if metric.effect is None:
        return None
    low = float("-inf") if metric.ci_lower is None else metric.ci_lower
    high = float("inf") if metric.ci_upper is None else metric.ci_upper
    if metric.direction is Direction.INCREASE:
        return Side(metric.effect, low, high)
    return Side(-metric.effect, -high, -low)


def usable(metric: MetricEvidence, *, at_horizon: bool) -> bool:
    """Return whether a look at this metric may count now.

    A fixed-horizon result counts at the horizon only: earlier, it would be peeking.
    """
    return metric.effect is not None and (metric.always_valid or at_horizon)


def is_at_horizon(evidence: Evidence) -> bool:
    """Return whether the planned size or the planned time is reached."""
    progress, health = evidence.progress, evidence.health
    units = health.n_control + health.n_treatment
    by_size = progress.planned_units is not None and units >= progress.planned_units
    by_time = (
        progress.max_runtime_days is not None and progress.runtime_days >= progress.max_runtime_days
    )
    return by_size or by_time


def invalidity(evidence: Evidence, policy: Policy, *, at_horizon: bool) -> list[Reason]:
    """Return what voids the experiment; empty if nothing does."""
    health = evidence.health
    reasons = [
        Reason(code=ReasonCode.CONFIG_CONFLICT, detail=conflict) for conflict in health.conflicts
    ]
    if health.srm_sequential_p <= policy.srm_sequential_alpha:
        reasons.append(
            Reason(
                code=ReasonCode.SAMPLE_RATIO_MISMATCH,
                detail=f"sequential p {health.srm_sequential_p:.3g} <= "
                f"{policy.srm_sequential_alpha:g} with {health.n_control} control and "
                f"{health.n_treatment} treatment units",
            )
        )
    elif at_horizon and health.srm_chi2_p < policy.srm_chi2_alpha:
        reasons.append(
            Reason(
                code=ReasonCode.SAMPLE_RATIO_MISMATCH,
                detail=f"chi-squared p {health.srm_chi2_p:.3g} < {policy.srm_chi2_alpha:g} at the "
                "horizon",
            )
        )
    units = health.n_control + health.n_treatment
    if units and health.multi_exposed_units / units > policy.max_multi_exposed_share:
        reasons.append(
            Reason(
                code=ReasonCode.MULTIPLE_EXPOSURE,
                detail=f"{health.multi_exposed_units} of {units} units were in more than one arm; "
                f"allowed: {policy.max_multi_exposed_share:.2%}",
            )
        )
    if health.n_control and health.n_treatment:
        share_a = health.missing_control / health.n_control
        share_b = health.missing_treatment / health.n_treatment
        if (
            abs(share_b - share_a) > policy.max_missing_gap
            and health.missing_p < policy.missing_alpha
        ):
            reasons.append(
                Reason(
                    code=ReasonCode.OUTCOME_LOSS_DIFFERS,
                    detail=f"outcomes are missing for {share_a:.2%} of control and {share_b:.2%} "
                    f"of treatment (p {health.missing_p:.3g})",
                )
            )
    return reasons + _undefined(evidence)


def suspicions(evidence: Evidence, policy: Policy, *, at_horizon: bool) -> list[Reason]:
    """Return what deserves a look but does not decide."""
    reasons = []
    health = evidence.health
    if health.srm_chi2_p < policy.srm_chi2_alpha and not at_horizon:
        reasons.append(
            Reason(
                code=ReasonCode.SAMPLE_RATIO_SUSPECTED,
                detail=f"chi-squared p {health.srm_chi2_p:.3g}; not valid at repeated looks, the "
                "sequential test decides",
            )
        )
    for metric in evidence.metrics:
        if metric.population is not Population.PER_PROTOCOL:
            continue
        for other in selected(evidence, metric.role):
            ours, theirs = side_of(other), side_of(metric)
            if other.name != metric.name or ours is None or theirs is None:
                continue
            if (ours.worst > 0 > theirs.best) or (theirs.worst > 0 > ours.best):
                reasons.append(
                    Reason(
                        code=ReasonCode.POPULATIONS_DISAGREE,
                        detail="per-protocol and intention-to-treat point opposite ways",
                        metric=metric.name,
                    )
                )
    return reasons


def guardrail_state(metric: MetricEvidence, *, at_horizon: bool) -> GuardrailState:
    """Return whether harm beyond the margin is excluded, shown, or open."""
    side = side_of(metric)
    if side is None or not usable(metric, at_horizon=at_horizon):
        return GuardrailState.OPEN
    return judge(side.worst, side.best, metric.margin or 0.0)


def adjusted(evidence: Evidence) -> dict[str, float]:
    """Return Holm-adjusted p-values by metric name.

    Primary metrics are one family. Secondary ones are adjusted in one family with the primary ones,
    and so cannot weaken the verdict by being many.
    """
    primary = _with_p(selected(evidence, MetricRole.PRIMARY))
    secondary = _with_p(selected(evidence, MetricRole.SECONDARY))
    family = dict(
        zip([*primary, *secondary], holm([*primary.values(), *secondary.values()]), strict=True)
    )
    result = {name: family[name] for name in secondary}
    result.update(zip(primary, holm(list(primary.values())), strict=True))
    return result


def describe(metric: MetricEvidence) -> str:
    """Return effect and interval in words, for reasons and checks."""
    # `z` prints -0.0 as 0: the two are one number in JSON, and a replay must print alike.
    if metric.effect is None:
        return f"{metric.problem}: {metric.problem_detail}"
    low = "-inf" if metric.ci_lower is None else f"{metric.ci_lower:z.4g}"
    high = "inf" if metric.ci_upper is None else f"{metric.ci_upper:z.4g}"
    unit = "relative" if metric.effect_kind == "relative" else "absolute"
    p_value = "" if metric.p_value is None else f", p {metric.p_value:.3g}"
    return f"{unit} effect {metric.effect:z.4g} [{low}, {high}]{p_value}, {metric.method}"


def _with_p(metrics: Sequence[MetricEvidence]) -> dict[str, float]:
    return {metric.name: metric.p_value for metric in metrics if metric.p_value is not None}


def _undefined(evidence: Evidence) -> list[Reason]:
    deciding = selected(evidence, MetricRole.PRIMARY) + selected(evidence, MetricRole.GUARDRAIL)
    return [
        Reason(
            code=ReasonCode.METRIC_UNDEFINED,
            detail=f"{metric.problem}: {metric.problem_detail}",
            metric=metric.name,
        )
        for metric in deciding
        if metric.problem is not None and metric.problem != _TOO_FEW
    ]
