"""The canary as a pure state machine: plan, state and observation in, decision out."""

import dataclasses
from collections.abc import Iterator

from experiments.canary.records import (
    Action,
    Burst,
    Code,
    Decision,
    Look,
    Observation,
    Plan,
    Reason,
    Recent,
    Record,
    State,
    Status,
)
from experiments.decision.checks import side_of
from experiments.decision.evidence import MetricEvidence
from experiments.stats.noninferiority import GuardrailState, judge
from experiments.steering.ownership import Ownership, edited, ownership

_EQUAL = 1e-9
"""Shares are multiples of 0.01 percent."""


def decide(state: State, seen: Observation) -> Decision:
    """Decide what a canary does now.

    In this order: is what is served what the canary deployed; harm, which takes the treatment back
    even while paused; data that cannot be believed, which pauses; may the step be left.

    Args:
        state: Where the canary stands, with its plan.
        seen: What is observed.

    Returns:
        The decision, the same for the same arguments.
    """
    plan = state.plan
    if state.status.over:
        return _hold(Code.OVER, f"the canary is {state.status.value}")
    foreign = _ownership(state, seen)
    if foreign is not None:
        return foreign
    if state.status is Status.READY:
        return _start(plan, state, seen)
    harm = _harm(plan, seen)
    if harm is not None:
        return harm
    doubts = tuple(_doubts(plan, seen))
    if doubts and state.status is not Status.PAUSED:
        return Decision(action=Action.PAUSE, reasons=doubts)
    if state.status is Status.PAUSED:
        why = Reason(code=Code.PAUSED, detail="once the cause is gone: carril canary run --resume")
        return Decision(action=Action.HOLD, reasons=(why, *doubts))
    return _next_step(plan, state, seen)


def after(state: State, decision: Decision, *, at: float) -> State:
    """Return the state after a decision was carried out, without what was deployed.

    Args:
        state: Before.
        decision: What was decided.
        at: When it was in force.
    """
    match decision.action:
        case Action.START | Action.ADVANCE:
            step = _step_of(state.plan, decision.percent)
            return dataclasses.replace(state, status=Status.RAMPING, step=step, step_at=at)
        case Action.ROLL_BACK:
            return dataclasses.replace(state, status=Status.ROLLED_BACK, step=-1, step_at=at)
        case Action.COMPLETE:
            return dataclasses.replace(state, status=Status.COMPLETED)
        case Action.PAUSE:
            return dataclasses.replace(state, status=Status.PAUSED)
        case Action.RESUME:
            return dataclasses.replace(state, status=Status.RAMPING)
        case Action.REFUSE:
            return dataclasses.replace(state, status=Status.CONFLICT)
        case Action.HOLD | Action.ADOPT:
            return state


def is_burst(recent: Recent, burst: Burst) -> bool:
    """Return whether the latest answers of a variant are an error burst."""
    return (
        recent.errors >= burst.min_errors
        and recent.error_sessions >= burst.min_sessions
        and recent.errors >= burst.share * recent.answers
    )


def guardrail_state(metric: MetricEvidence) -> GuardrailState | None:
    """Return what is known about a guardrail; None if it could not be compared at any look."""
    side = side_of(metric)
    if side is None or not metric.always_valid or metric.margin is None:
        return None
    return judge(side.worst, side.best, metric.margin)


def time_to_detection(record: Record) -> float | None:
    """Return how old the harm may have been when a rollback was decided.

    Returns:
        Seconds since the first failed answer of an error burst, or since the look before, which
        showed no breach (the beginning of the step, if there was none); None for other decisions.
    """
    seen, codes = record.observation, {reason.code for reason in record.decision.reasons}
    if record.decision.action is not Action.ROLL_BACK:
        return None
    if Code.ERROR_BURST in codes:
        since = seen.treatment.first_error_at
    elif Code.GUARDRAIL_BREACHED in codes:
        since = record.state.step_at if seen.clean_at is None else seen.clean_at
    else:
        since = None
    return None if since is None else max(0.0, seen.at - since)


def _ownership(state: State, seen: Observation) -> Decision | None:
    match ownership(state, seen):
        case Ownership.UNKNOWN:
            return _hold(Code.CONFIG_UNKNOWN, "the gateways do not answer, or do not agree yet")
        case Ownership.ADOPTABLE if state.status is not Status.READY:
            same = (
                f"{seen.active_config} was deployed with the same split and something else changed"
            )
            return _one(Action.ADOPT, Code.CONFIG_ADOPTED, same)
        case _ if seen.active_config == state.served.config_hash:
            return None
        case _:
            return _one(
                Action.REFUSE,
                Code.CONFIG_FOREIGN,
                f"the gateways run {seen.active_config}; this canary deployed "
                f"{state.served.config_hash} with {state.served.percent:g} % and will not "
                "overwrite what somebody else did",
            )


def _start(plan: Plan, state: State, seen: Observation) -> Decision:
    if edited(state, seen) or not seen.file_runs:
        return _hold(Code.FILE_EDITED, "the config file is not what runs: deploy it first")
    larger = [step for step in plan.steps if step > state.served.percent + _EQUAL]
    same = [step for step in plan.steps if abs(step - state.served.percent) < _EQUAL]
    percent = (same or larger)[0]
    detail = f"step {_step_of(plan, percent) + 1} of {len(plan.steps)}: {percent:g} %"
    return _one(Action.START, Code.STARTED, detail, percent=percent)


def _harm(plan: Plan, seen: Observation) -> Decision | None:
    reasons: list[Reason] = []
    if is_burst(seen.treatment, plan.burst):
        told = _told(seen.treatment, seen.at)
        if is_burst(seen.control, plan.burst):
            # Going back would not help: the fault is not the treatment's.
            detail = f"treatment: {told}; control: {_told(seen.control, seen.at)}"
            reason = Reason(code=Code.ERROR_BURST_EVERYWHERE, detail=detail)
            return Decision(action=Action.PAUSE, reasons=(reason,))
        reasons.append(Reason(code=Code.ERROR_BURST, detail=told))
    reasons += [
        Reason(code=Code.GUARDRAIL_BREACHED, detail=_bounds(metric))
        for metric in (() if seen.look is None else seen.look.guardrails)
        if guardrail_state(metric) is GuardrailState.BREACHED
    ]
    if not reasons:
        return None
    return Decision(action=Action.ROLL_BACK, reasons=tuple(reasons), percent=0.0)


def _doubts(plan: Plan, seen: Observation) -> Iterator[Reason]:
    health = None if seen.look is None else seen.look.health
    if health is None:
        return
    for conflict in health.conflicts:
        yield Reason(code=Code.CONFIG_CONFLICT, detail=conflict)
    if health.srm_sequential_p <= plan.srm_alpha:
        yield Reason(
            code=Code.SAMPLE_RATIO_MISMATCH,
            detail=f"sequential p {health.srm_sequential_p:.3g} <= {plan.srm_alpha:g} with "
            f"{health.n_control} control and {health.n_treatment} treatment units",
        )
    units = health.n_control + health.n_treatment
    if units and health.multi_exposed_units / units > plan.max_multi_exposed_share:
        yield Reason(
            code=Code.MULTIPLE_EXPOSURE,
            detail=f"{health.multi_exposed_units} of {units} units were in more than one arm; "
            f"allowed: {plan.max_multi_exposed_share:.2%}",
        )


def _next_step(plan: Plan, state: State, seen: Observation) -> Decision:
    waits = list(_waits(plan, state, seen))
    if waits:
        return Decision(action=Action.HOLD, reasons=tuple(waits))
    if state.step + 1 >= len(plan.steps):
        detail = f"the treatment has {plan.steps[-1]:g} %, the last step"
        return _one(Action.COMPLETE, Code.RAMP_DONE, detail)
    if edited(state, seen):
        return _hold(Code.FILE_EDITED, "the config file holds an edit that is not deployed")
    look, percent = seen.look, plan.steps[state.step + 1]
    assert look is not None  # noqa: S101 (_waits holds without one below 100 %)
    shown = "; ".join(_bounds(metric) for metric in look.guardrails)
    return _one(Action.ADVANCE, Code.GUARDRAILS_PASSED, shown, percent=percent)


def _waits(plan: Plan, state: State, seen: Observation) -> Iterator[Reason]:
    """Yield what keeps the canary on its step."""
    age_s = seen.at - state.step_at
    if age_s < plan.min_step_s:
        yield Reason(code=Code.TOO_EARLY, detail=f"{age_s:.0f} of {plan.min_step_s:g} s")
    if plan.steps[state.step] >= 100.0:
        return  # no control to compare with
    look = seen.look or Look(n_control=0, n_treatment=0, guardrails=(), health=None)
    if min(look.n_control, look.n_treatment) < plan.min_units:
        yield Reason(
            code=Code.TOO_FEW_UNITS,
            detail=f"{look.n_control} control and {look.n_treatment} treatment sessions; "
            f"needed: {plan.min_units} each",
        )
    for metric in look.guardrails:
        match guardrail_state(metric):
            case GuardrailState.PASSED:
                continue
            case None:
                problem = metric.problem_detail or metric.problem or "not valid at every look"
                yield Reason(code=Code.GUARDRAIL_UNKNOWN, detail=f"{metric.name}: {problem}")
            case _:
                yield Reason(code=Code.GUARDRAIL_OPEN, detail=_bounds(metric))


def _step_of(plan: Plan, percent: float | None) -> int:
    return plan.steps.index(-1.0 if percent is None else percent)


def _bounds(metric: MetricEvidence) -> str:
    side, margin = side_of(metric), metric.margin or 0.0
    if side is None:
        return f"{metric.name}: {metric.problem}"
    return f"{metric.name}: harm between {-side.best:.4g} and {-side.worst:.4g}, margin {margin:g}"


def _told(recent: Recent, at: float) -> str:
    codes = f" ({', '.join(recent.codes)})" if recent.codes else ""
    first = at if recent.first_error_at is None else recent.first_error_at
    return (
        f"{recent.errors} of the last {recent.answers} answers failed, in {recent.error_sessions} "
        f"sessions{codes}, the first {at - first:.1f} s before"
    )


def _hold(code: Code, detail: str) -> Decision:
    return _one(Action.HOLD, code, detail)


def _one(action: Action, code: Code, detail: str, *, percent: float | None = None) -> Decision:
    return Decision(action=action, reasons=(Reason(code=code, detail=detail),), percent=percent)
