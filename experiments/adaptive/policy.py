"""An adaptive experiment as a pure function: state and observation in, decision out.

Shares are for new units; a unit keeps its first variant. So a move never changes what anybody sees,
and a mistaken one costs the units of one period.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple

from experiments.adaptive.declaration import Method
from experiments.adaptive.records import (
    Action,
    Arm,
    Code,
    Decision,
    Observation,
    Plan,
    Reason,
    Recommendation,
    Record,
    State,
    Status,
)
from experiments.decision.verdict import Verdict
from experiments.stats.bayes import ArmBelief, NormalPosterior, beliefs
from experiments.stats.thompson import ThompsonPolicy, ThompsonRule, thompson_shares
from experiments.stats.track_and_stop import ArmState, TrackAndStopRule
from experiments.stats.track_and_stop import plan as track
from experiments.steering.ownership import Ownership, edited, ownership

_PARTS = 10_000
"""Parts of a split: 0.01 percent each, as the configuration has them."""


def decide(state: State, seen: Observation) -> Decision:
    """Decide what an adaptive experiment does now.

    In this order: is what is served what was deployed here; data that cannot be believed moves
    nothing; shown harm ends with a recommendation; a winner that is known well enough ends with
    one, too; else the split follows the results, a bounded step at a time.

    Args:
        state: Where it stands, with its plan.
        seen: What is observed.

    Returns:
        The decision, the same for the same arguments.
    """
    if state.status.over:
        return _hold(Code.OVER, f"it is {state.status.value}")
    foreign = _ownership(state, seen)
    if foreign is not None:
        return foreign
    if seen.doubts:
        told = tuple(
            Reason(code=Code.UNHEALTHY, detail=f"{doubt.code.value}: {doubt.detail}".rstrip(": "))
            for doubt in seen.doubts
        )
        return Decision(action=Action.HOLD, reasons=told)
    if seen.breached:
        told = tuple(
            Reason(code=Code.GUARDRAIL_BREACHED, detail=f"{breach.metric}: {breach.detail}")
            for breach in seen.breached
        )
        if len(state.served.percent) > 2:
            # Which of the others to go on with is not for a split to decide.
            return Decision(action=Action.HOLD, reasons=told)
        return _recommend(state, state.control, told, {})
    plan = state.plan
    if edited(state, seen):
        return _hold(Code.FILE_EDITED, "the config file holds an edit that is not deployed")
    names = sorted(state.served.percent)
    fewest = min((seen.arms[name].n if name in seen.arms else 0) for name in names)
    if fewest < plan.min_units_per_arm:
        detail = f"the smallest variant has {fewest} of {plan.min_units_per_arm} sessions"
        return _move(state, dict.fromkeys(names, 1.0 / len(names)), Code.BURN_IN, detail)
    if seen.problem:
        return _hold(Code.METRIC_UNDEFINED, seen.problem)
    known = _beliefs(seen.arms)
    won = _winner(state, seen.arms, known)
    if won is not None:
        return won
    age_s, new = seen.at - state.served_at, seen.units - state.units_then
    if age_s < plan.every_s:
        return _hold(Code.TOO_EARLY, f"{max(0.0, age_s):.0f} of {plan.every_s:g} s")
    if new < plan.min_new_units:
        return _hold(Code.TOO_FEW_UNITS, f"{new} of {plan.min_new_units} new sessions")
    seed = seed_of(state)
    shares = target_shares(plan, seen.arms, seed=seed)
    detail = f"{plan.method.value} of {plan.metric} gives " + _shown(
        {name: 100 * share for name, share in shares.items()}
    )
    return _move(state, shares, Code.FOLLOWS_RESULTS, detail, seed=seed, known=known)


def after(state: State, record: Record, *, at: float) -> State:
    """Return the state after a decision was carried out, without what was deployed.

    Args:
        state: Before.
        record: What was decided, and on what.
        at: When it was in force.
    """
    match record.decision.action:
        case Action.MOVE:
            return dataclasses.replace(state, served_at=at, units_then=record.observation.units)
        case Action.RECOMMEND:
            return dataclasses.replace(state, status=Status.RECOMMENDED)
        case Action.REFUSE:
            return dataclasses.replace(state, status=Status.CONFLICT)
        case Action.HOLD | Action.ADOPT:
            return state


def target_shares(plan: Plan, arms: Mapping[str, Arm], *, seed: int) -> dict[str, float]:
    """Return the shares that the method asks for, floors included, before the step is bounded.

    Args:
        plan: What was declared.
        arms: What is known of each variant.
        seed: Of the draws.
    """
    floor = plan.min_percent / 100.0
    units = {name: arm.n for name, arm in arms.items()}
    match plan.method:
        case Method.TRACK_AND_STOP:
            return _tracked(plan, arms).shares
        case Method.THOMPSON | Method.TOP_TWO:
            rule = ThompsonRule(
                policy=ThompsonPolicy(plan.method.value),
                min_share=floor,
                min_units_per_arm=plan.min_units_per_arm,
            )
            return thompson_shares(_posteriors(arms), units, seed=seed, rule=rule)


def bounded(
    served: Mapping[str, float], wanted: Mapping[str, float], *, max_step: float, floor: float
) -> dict[str, float]:
    """Return a split on the way from what is served to what is wanted, in whole parts.

    The whole way is shortened, not each variant's: the direction stays, and shares still add up to
    100. The largest remainders get the parts that rounding leaves.

    Args:
        served: Percent by variant.
        wanted: Percent by variant.
        max_step: Largest change of a variant's percent.
        floor: Percent that every variant keeps.
    """
    furthest = max(abs(wanted[name] - served[name]) for name in served)
    part = 1.0 if furthest <= max_step else max_step / furthest
    exact = {
        name: max(floor, served[name] + part * (wanted[name] - served[name])) for name in served
    }
    total = math.fsum(exact.values())
    parts = {name: _PARTS * share / total for name, share in exact.items()}
    whole = {name: math.floor(share) for name, share in parts.items()}
    left = _PARTS - sum(whole.values())
    for name in sorted(parts, key=lambda name: (whole[name] - parts[name], name))[:left]:
        whole[name] += 1
    return {name: 100.0 * whole[name] / _PARTS for name in sorted(whole)}


def seed_of(state: State) -> int:
    """Return the seed of the next decision's draws: another one each, and always the same."""
    text = f"{state.experiment}\n{state.version}\n{state.plan.seed}\n{state.n_decisions + 1}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class _Best(NamedTuple):
    name: str
    belief: ArmBelief


def _winner(
    state: State, arms: Mapping[str, Arm], known: Mapping[str, ArmBelief]
) -> Decision | None:
    plan = state.plan
    best = max((_Best(name, belief) for name, belief in known.items()), key=_rank)
    reasons = []
    if plan.method is Method.TRACK_AND_STOP:
        tracked = _tracked(plan, arms)
        if tracked.stopped:
            best = _Best(tracked.leader, known[tracked.leader])
            detail = f"likelihood ratio {tracked.statistic:.4g} above {tracked.threshold:.4g}"
            reasons.append(Reason(code=Code.TRACKING_STOPPED, detail=detail))
    elif best.belief.probability_best >= plan.best_probability:
        detail = (
            f"{best.name} is best with probability {best.belief.probability_best:.4f}, asked: "
            f"{plan.best_probability:g}"
        )
        reasons.append(Reason(code=Code.BEST_KNOWN, detail=detail))
    if plan.max_expected_loss is not None:
        best_loss = best.belief.expected_loss
        if best_loss <= plan.max_expected_loss:
            detail = f"choosing {best.name} costs {best_loss:.4g} at most on average"
            reasons.append(Reason(code=Code.LOSS_SMALL, detail=detail))
    return _recommend(state, best.name, tuple(reasons), known) if reasons else None


def _rank(best: _Best) -> tuple[float, str]:
    return best.belief.probability_best, best.name


def _recommend(
    state: State, name: str, reasons: tuple[Reason, ...], known: Mapping[str, ArmBelief]
) -> Decision:
    verdict = Verdict.KEEP_A if name == state.control else Verdict.PROMOTE_B
    return Decision(
        action=Action.RECOMMEND,
        reasons=reasons,
        best={k: belief.probability_best for k, belief in sorted(known.items())},
        loss={k: belief.expected_loss for k, belief in sorted(known.items())},
        recommendation=Recommendation(verdict=verdict, variant=name),
    )


def _move(
    state: State,
    shares: Mapping[str, float],
    code: Code,
    detail: str,
    *,
    seed: int | None = None,
    known: Mapping[str, ArmBelief] | None = None,
) -> Decision:
    wanted = {name: 100.0 * share for name, share in shares.items()}
    served = state.served.percent
    # Before there are results, equal shares are reached at once: no result can be wrong yet.
    max_step = 100.0 if code is Code.BURN_IN else state.plan.max_step
    percent = bounded(served, wanted, max_step=max_step, floor=state.plan.min_percent)
    best = {k: belief.probability_best for k, belief in sorted((known or {}).items())}
    loss = {k: belief.expected_loss for k, belief in sorted((known or {}).items())}
    if all(abs(percent[name] - served[name]) < 100.0 / _PARTS / 2 for name in served):
        wait = code if code is Code.BURN_IN else Code.UNCHANGED
        reason = Reason(code=wait, detail=detail)
        return Decision(action=Action.HOLD, reasons=(reason,), seed=seed, best=best, loss=loss)
    told = f"{detail}; {_shown(percent)} after a step of at most {max_step:g} points"
    return Decision(
        action=Action.MOVE,
        reasons=(Reason(code=code, detail=told),),
        percent=percent,
        seed=seed,
        best=best,
        loss=loss,
    )


def _ownership(state: State, seen: Observation) -> Decision | None:
    match ownership(state, seen):
        case Ownership.UNKNOWN:
            return _hold(Code.CONFIG_UNKNOWN, "the gateways do not answer, or do not agree yet")
        case Ownership.ADOPTABLE:
            same = (
                f"{seen.active_config} was deployed with the same split and something else changed"
            )
            return _one(Action.ADOPT, Code.CONFIG_ADOPTED, same)
        case Ownership.OURS:
            return None  # an edit that is not deployed: told where it would matter
        case Ownership.FOREIGN:
            return _one(
                Action.REFUSE,
                Code.CONFIG_FOREIGN,
                f"the gateways run {seen.active_config}, not the {state.served.config_hash} that "
                "was deployed here; what somebody else did is not overwritten",
            )


def _beliefs(arms: Mapping[str, Arm]) -> dict[str, ArmBelief]:
    return beliefs(_posteriors(arms))


def _posteriors(arms: Mapping[str, Arm]) -> dict[str, NormalPosterior]:
    return {name: NormalPosterior(arm.mean, arm.standard_error) for name, arm in arms.items()}


class _Tracked(NamedTuple):
    leader: str
    shares: dict[str, float]
    stopped: bool
    statistic: float
    threshold: float


def _tracked(plan: Plan, arms: Mapping[str, Arm]) -> _Tracked:
    states = {
        name: ArmState(arm.n, arm.mean, arm.n * arm.standard_error**2) for name, arm in arms.items()
    }
    rule = TrackAndStopRule(
        delta=1.0 - plan.best_probability,
        min_units_per_arm=plan.min_units_per_arm,
        min_share=plan.min_percent / 100.0,
    )
    return _Tracked(*track(states, rule))


def _shown(percent: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.2f} %" for name, share in sorted(percent.items()))


def _hold(code: Code, detail: str) -> Decision:
    return _one(Action.HOLD, code, detail)


def _one(action: Action, code: Code, detail: str) -> Decision:
    return Decision(action=action, reasons=(Reason(code=code, detail=detail),))
