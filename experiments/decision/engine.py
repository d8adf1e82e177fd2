"""The decision engine: evidence and policy in, verdict with reasons out. No input or output else.

Order: enough units to speak at all, validity, guardrails, planned size and time, primary metrics,
horizon. Safety comes before patience: an invalid split or shown harm decides however early it is;
an improvement waits for the minimum runtime.
"""

from typing import NamedTuple

from experiments.decision.checks import (
    adjusted,
    describe,
    guardrail_state,
    invalidity,
    is_at_horizon,
    selected,
    side_of,
    suspicions,
    usable,
)
from experiments.decision.codec import digest
from experiments.decision.evidence import Evidence, MetricEvidence, MetricRole
from experiments.decision.policy import Policy
from experiments.decision.score import weighted_score
from experiments.decision.verdict import (
    Check,
    CheckOutcome,
    Decision,
    Reason,
    ReasonCode,
    Score,
    Verdict,
)
from experiments.stats.noninferiority import GuardrailState
from experiments.stats.power import days_left


class _Ruling(NamedTuple):
    verdict: Verdict
    reasons: list[Reason]


def decide(evidence: Evidence, policy: Policy | None = None) -> Decision:
    """Decide an experiment.

    A pure function: the same evidence and policy give the same decision, byte for byte in
    `codec.to_json`. It compares numbers and adds points, nothing else, so it does not depend on the
    platform's mathematics library either.

    1. INVALID (NO_CLEAR_WINNER): config conflict, sample-ratio mismatch, multiple exposure, outcome
       loss differs, a deciding metric undefined.
    2. KEEP_A: a guardrail's harm beyond its margin is shown.
    3. KEEP_A: a primary metric is shown to be worse (Holm).
    4. INSUFFICIENT (NO_CLEAR_WINNER): too few units, too short, or below the planned size without
       an always-valid improvement.
    5. PROMOTE_B: every primary metric better (Holm) and every guardrail passed.
    6. At the horizon: PROMOTE_B if the policy promotes non-inferior variants and that is shown; by
       the weighted score if a tie is shown; else NO_CLEAR_WINNER.

    Args:
        evidence: What is known.
        policy: Thresholds; the defaults if None.

    Returns:
        The decision with all checks.
    """
    rules = policy or Policy()
    score = weighted_score(evidence.metrics, rules.score_weights)
    at_horizon = is_at_horizon(evidence)
    p_values = adjusted(evidence)
    ruling = _rule(evidence, rules, score, p_values, at_horizon=at_horizon)
    units = evidence.health.n_control + evidence.health.n_treatment
    planned, days = evidence.progress.planned_units, evidence.progress.runtime_days
    units_left = None if planned is None else max(0, planned - units)
    left = None
    if planned is not None and days > 0 and units > 0:
        left = days_left(planned, units, units / days)
    return Decision(
        experiment=evidence.experiment,
        verdict=ruling.verdict,
        reasons=tuple(ruling.reasons + suspicions(evidence, rules, at_horizon=at_horizon)),
        checks=tuple(_checks(evidence, rules, p_values, at_horizon=at_horizon)),
        score=score,
        adjusted_p_values=tuple(sorted(p_values.items())),
        units_left=units_left,
        days_left=left,
        policy=rules,
        evidence_sha256=digest(evidence),
    )


def _rule(
    evidence: Evidence,
    policy: Policy,
    score: Score | None,
    p_values: dict[str, float],
    *,
    at_horizon: bool,
) -> _Ruling:
    void = invalidity(evidence, policy, at_horizon=at_horizon)
    if void:
        return _Ruling(Verdict.NO_CLEAR_WINNER, [Reason(code=ReasonCode.INVALID), *void])
    guardrails = selected(evidence, MetricRole.GUARDRAIL)
    states = {metric.name: guardrail_state(metric, at_horizon=at_horizon) for metric in guardrails}
    breached = [m for m in guardrails if states[m.name] is GuardrailState.BREACHED]
    if breached:
        return _Ruling(
            Verdict.KEEP_A, [_about(ReasonCode.GUARDRAIL_BREACHED, metric) for metric in breached]
        )
    primary = selected(evidence, MetricRole.PRIMARY)
    if not primary:
        reason = Reason(code=ReasonCode.NO_PRIMARY_METRIC, detail="declare a primary metric")
        return _Ruling(Verdict.NO_CLEAR_WINNER, [Reason(code=ReasonCode.INVALID), reason])
    shown = {
        metric.name: _shown(metric, p_values, evidence.alpha, at_horizon=at_horizon)
        for metric in primary
    }
    few = _too_few(evidence, policy)
    worse = [metric for metric in primary if shown[metric.name] < 0]
    better = [metric for metric in primary if shown[metric.name] > 0]
    if worse and not few:
        reasons = [_about(ReasonCode.PRIMARY_WORSE, metric) for metric in worse]
        if better:
            mixed = [_about(ReasonCode.PRIMARY_MIXED, metric) for metric in better]
            return _Ruling(Verdict.KEEP_A, reasons + mixed)
        return _Ruling(Verdict.KEEP_A, reasons)
    early = few + _too_early(evidence, policy)
    all_better = len(better) == len(primary)
    if not at_horizon and not all_better:
        early += _below_plan(evidence)
    if early:
        return _Ruling(Verdict.NO_CLEAR_WINNER, [Reason(code=ReasonCode.INSUFFICIENT), *early])
    waiting = [
        _about(ReasonCode.GUARDRAIL_OPEN, metric)
        for metric in guardrails
        if states[metric.name] is GuardrailState.OPEN
    ]
    if all_better and not waiting:
        return _Ruling(
            Verdict.PROMOTE_B, [_about(ReasonCode.PRIMARY_BETTER, metric) for metric in better]
        )
    if waiting:
        found = [
            _about(
                ReasonCode.PRIMARY_BETTER
                if shown[metric.name] > 0
                else ReasonCode.PRIMARY_INCONCLUSIVE,
                metric,
            )
            for metric in primary
        ]
        first = [] if at_horizon else [Reason(code=ReasonCode.INSUFFICIENT)]
        return _Ruling(Verdict.NO_CLEAR_WINNER, first + waiting + found)
    return _at_horizon(primary, policy, score)


def _at_horizon(primary: list[MetricEvidence], policy: Policy, score: Score | None) -> _Ruling:
    open_reasons = [_about(ReasonCode.PRIMARY_INCONCLUSIVE, metric) for metric in primary]
    if policy.promote_non_inferior and all(_not_worse(metric) for metric in primary):
        return _Ruling(
            Verdict.PROMOTE_B, [_about(ReasonCode.NON_INFERIOR, metric) for metric in primary]
        )
    tie = all(_tied(metric) for metric in primary)
    if policy.use_score_in_ties and tie and score is not None and score.total_a != score.total_b:
        verdict = Verdict.PROMOTE_B if score.total_b > score.total_a else Verdict.KEEP_A
        return _Ruling(verdict, [Reason(code=ReasonCode.TIE_BREAK_SCORE, detail=score.arithmetic)])
    return _Ruling(Verdict.NO_CLEAR_WINNER, open_reasons)


def _shown(
    metric: MetricEvidence, p_values: dict[str, float], alpha: float, *, at_horizon: bool
) -> int:
    side = side_of(metric)
    if side is None or not usable(metric, at_horizon=at_horizon):
        return 0
    if p_values.get(metric.name, 1.0) > alpha:
        return 0
    return (side.effect > 0) - (side.effect < 0)


def _not_worse(metric: MetricEvidence) -> bool:
    side = side_of(metric)
    return side is not None and metric.margin is not None and side.worst > -metric.margin


def _tied(metric: MetricEvidence) -> bool:
    side = side_of(metric)
    return side is not None and _not_worse(metric) and side.best < (metric.margin or 0.0)


def _too_few(evidence: Evidence, policy: Policy) -> list[Reason]:
    smaller = min(evidence.health.n_control, evidence.health.n_treatment)
    reasons = []
    if smaller < policy.min_units_per_arm:
        reasons.append(
            Reason(
                code=ReasonCode.TOO_FEW_UNITS,
                detail=f"the smaller arm has {smaller} units; needed: {policy.min_units_per_arm}",
            )
        )
    reasons += [
        _about(ReasonCode.TOO_FEW_UNITS, metric)
        for metric in selected(evidence, MetricRole.PRIMARY)
        if metric.problem is not None
    ]
    return reasons


def _too_early(evidence: Evidence, policy: Policy) -> list[Reason]:
    days = evidence.progress.runtime_days
    if days >= policy.min_runtime_days:
        return []
    detail = f"{days:.4g} days; needed: {policy.min_runtime_days:g}"
    return [Reason(code=ReasonCode.RUNTIME_TOO_SHORT, detail=detail)]


def _below_plan(evidence: Evidence) -> list[Reason]:
    planned = evidence.progress.planned_units
    if planned is None:
        detail = "no planned size: run `carril exp power`, or declare a maximum runtime"
        return [Reason(code=ReasonCode.NO_PLAN, detail=detail)]
    units = evidence.health.n_control + evidence.health.n_treatment
    detail = f"{units} of {planned} planned units and no always-valid improvement"
    return [Reason(code=ReasonCode.BELOW_PLANNED_SIZE, detail=detail)]


def _about(code: ReasonCode, metric: MetricEvidence) -> Reason:
    margin = "" if metric.margin is None else f", margin {metric.margin:g}"
    return Reason(code=code, detail=describe(metric) + margin, metric=metric.name)


def _checks(
    evidence: Evidence, policy: Policy, p_values: dict[str, float], *, at_horizon: bool
) -> list[Check]:
    few = _too_few(evidence, policy)
    void = invalidity(evidence, policy, at_horizon=at_horizon)
    early = _too_early(evidence, policy)
    checks = [
        _check("enough units", few, "every arm has enough units", CheckOutcome.OPEN),
        _check("valid data", void, "split, exposures and outcomes are sound", CheckOutcome.FAILED),
    ]
    outcome = {
        GuardrailState.PASSED: CheckOutcome.PASSED,
        GuardrailState.BREACHED: CheckOutcome.FAILED,
        GuardrailState.OPEN: CheckOutcome.OPEN,
    }
    checks += [
        Check(
            name=f"guardrail {metric.name}",
            outcome=outcome[guardrail_state(metric, at_horizon=at_horizon)],
            detail=_about(ReasonCode.GUARDRAIL_OPEN, metric).detail,
        )
        for metric in selected(evidence, MetricRole.GUARDRAIL)
    ]
    checks.append(_check("minimum runtime", early, "long enough", CheckOutcome.OPEN))
    below = [] if at_horizon else _below_plan(evidence)
    checks.append(_check("horizon", below, "planned size or time reached", CheckOutcome.OPEN))
    signs = {1: CheckOutcome.PASSED, 0: CheckOutcome.OPEN, -1: CheckOutcome.FAILED}
    for metric in selected(evidence, MetricRole.PRIMARY):
        sign = _shown(metric, p_values, evidence.alpha, at_horizon=at_horizon)
        p_value = p_values.get(metric.name)
        suffix = "" if p_value is None else f", Holm p {p_value:.3g}"
        checks.append(
            Check(
                name=f"primary {metric.name}",
                outcome=signs[sign],
                detail=describe(metric) + suffix,
            )
        )
    return checks


def _check(name: str, reasons: list[Reason], fine: str, otherwise: CheckOutcome) -> Check:
    if not reasons:
        return Check(name=name, outcome=CheckOutcome.PASSED, detail=fine)
    details = "; ".join(f"{reason.code.value} {reason.detail}".strip() for reason in reasons)
    return Check(name=name, outcome=otherwise, detail=details)
