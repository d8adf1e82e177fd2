"""The canary's decisions: one situation at a time, and what must hold in all of them."""

import dataclasses
import random
from typing import Any

import pytest

from experiments.canary.machine import after, decide, time_to_detection
from experiments.canary.records import (
    Action,
    Code,
    Decision,
    Observation,
    Recent,
    Record,
    State,
    Status,
)
from tests.unit.experiments.canary.builders import (
    NOW,
    OURS,
    failing,
    guardrail,
    health,
    look,
    plan,
    seen,
    state,
)

FOREIGN = dataclasses.replace(OURS, config_hash="b" * 12, file_sha256="e" * 64)
HARM = look(guardrail(0.05, 0.2))
OPEN = look(guardrail(-0.01, 0.05))


def codes(decision: Decision) -> list[Code]:
    return [reason.code for reason in decision.reasons]


@pytest.mark.parametrize(
    ("change", "action", "code"),
    [
        pytest.param({}, Action.ADVANCE, Code.GUARDRAILS_PASSED, id="all passed"),
        pytest.param({"look": OPEN}, Action.HOLD, Code.GUARDRAIL_OPEN, id="open"),
        pytest.param({"look": None}, Action.HOLD, Code.TOO_FEW_UNITS, id="no units"),
        pytest.param(
            {"look": look(n_treatment=99)}, Action.HOLD, Code.TOO_FEW_UNITS, id="a unit short"
        ),
        pytest.param(
            {"look": look(guardrail(0, 0, effect=None, problem="ZERO_VARIANCE"))},
            Action.HOLD,
            Code.GUARDRAIL_UNKNOWN,
            id="not comparable",
        ),
        pytest.param(
            {"look": look(guardrail(0.1, 0.2, always_valid=False))},
            Action.HOLD,
            Code.GUARDRAIL_UNKNOWN,
            id="peeking is no breach",
        ),
        pytest.param({"at": NOW - 500}, Action.HOLD, Code.TOO_EARLY, id="too early"),
        pytest.param({"look": HARM}, Action.ROLL_BACK, Code.GUARDRAIL_BREACHED, id="breached"),
        pytest.param({"treatment": failing()}, Action.ROLL_BACK, Code.ERROR_BURST, id="burst"),
        pytest.param(
            {"treatment": failing(), "control": failing()},
            Action.PAUSE,
            Code.ERROR_BURST_EVERYWHERE,
            id="burst in both",
        ),
        pytest.param(
            {"treatment": failing(20, 9, 9)},
            Action.ADVANCE,
            Code.GUARDRAILS_PASSED,
            id="fewer than half fail",
        ),
        pytest.param(
            {"treatment": failing(sessions=2)},
            Action.ADVANCE,
            Code.GUARDRAILS_PASSED,
            id="two sessions are no burst",
        ),
        pytest.param(
            {"look": look(health=health(srm_sequential_p=0.01))},
            Action.PAUSE,
            Code.SAMPLE_RATIO_MISMATCH,
            id="srm",
        ),
        pytest.param(
            {"look": look(health=health(multi_exposed_units=21))},
            Action.PAUSE,
            Code.MULTIPLE_EXPOSURE,
            id="in two arms",
        ),
        pytest.param(
            {"look": look(health=health(conflicts=("re-salted",)))},
            Action.PAUSE,
            Code.CONFIG_CONFLICT,
            id="re-salted",
        ),
        pytest.param(
            {"active_config": ""}, Action.HOLD, Code.CONFIG_UNKNOWN, id="gateways disagree"
        ),
        pytest.param(
            {"active_config": "b" * 12, "look": HARM, "treatment": failing()},
            Action.REFUSE,
            Code.CONFIG_FOREIGN,
            id="a stale config is never acted on",
        ),
        pytest.param(
            {"active_config": "b" * 12, "file": dataclasses.replace(FOREIGN, percent=20.0)},
            Action.REFUSE,
            Code.CONFIG_FOREIGN,
            id="somebody else's split",
        ),
        pytest.param(
            {"active_config": "b" * 12, "file": FOREIGN},
            Action.ADOPT,
            Code.CONFIG_ADOPTED,
            id="same split, another cache",
        ),
        pytest.param(
            {"active_config": "b" * 12, "file": FOREIGN, "file_declares": False},
            Action.REFUSE,
            Code.CONFIG_FOREIGN,
            id="another salt",
        ),
        pytest.param(
            {"active_config": "b" * 12, "file": FOREIGN, "file_runs": False},
            Action.REFUSE,
            Code.CONFIG_FOREIGN,
            id="the file does not run",
        ),
        pytest.param(
            {"file": FOREIGN, "file_runs": False},
            Action.HOLD,
            Code.FILE_EDITED,
            id="edit not deployed",
        ),
        pytest.param(
            {"file": dataclasses.replace(OURS, file_sha256="e" * 64)},
            Action.ADOPT,
            Code.CONFIG_ADOPTED,
            id="a model was swapped",
        ),
        pytest.param(
            {"file": None, "look": HARM},
            Action.ROLL_BACK,
            Code.GUARDRAIL_BREACHED,
            id="a broken file does not stop a rollback",
        ),
    ],
)
def test_a_situation_has_one_answer(change: dict[str, Any], action: Action, code: Code) -> None:
    decision = decide(state(), seen(**change))
    assert (decision.action, codes(decision)[0]) == (action, code)


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        pytest.param({"treatment": failing()}, 3.0, id="since the first failure"),
        pytest.param({"look": HARM, "clean_at": NOW - 2}, 2.0, id="since the look before"),
        pytest.param({"look": HARM}, 1000.0, id="since the step began, at its first look"),
        pytest.param({}, None, id="nothing detected"),
    ],
)
def test_the_time_to_detection_follows_from_the_evidence(
    change: dict[str, Any], seconds: float | None
) -> None:
    observation = seen(**change)
    record = Record(
        number=1,
        state=state(),
        observation=observation,
        decision=decide(state(), observation),
        previous_sha256="",
    )
    assert time_to_detection(record) == seconds


def test_a_paused_canary_waits_for_a_person_but_not_with_harm() -> None:
    paused = state(status=Status.PAUSED)
    assert decide(paused, seen()).action is Action.HOLD
    assert decide(paused, seen(treatment=failing())).action is Action.ROLL_BACK


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.ROLLED_BACK, Status.CONFLICT])
def test_what_is_over_stays_over(status: Status) -> None:
    decision = decide(state(status=status), seen(treatment=failing(), look=HARM))
    assert (decision.action, decision.percent) == (Action.HOLD, None)


def test_the_last_step_needs_time_only_and_is_still_watched() -> None:
    last = state(step=4, served=dataclasses.replace(OURS, percent=100.0))
    assert decide(last, seen(look=None)).action is Action.COMPLETE
    assert decide(last, seen(look=None, at=NOW - 900)).action is Action.HOLD
    assert decide(last, seen(look=None, treatment=failing())).action is Action.ROLL_BACK


def test_a_ramp_that_ends_below_100_percent_waits_for_its_guardrails() -> None:
    last = state(plan=plan(steps=[1, 5]))
    assert decide(last, seen(look=OPEN)).action is Action.HOLD
    assert decide(last, seen()).action is Action.COMPLETE


@pytest.mark.parametrize(("now", "first"), [(0.0, 1.0), (1.0, 1.0), (5.0, 5.0), (7.0, 20.0)])
def test_a_start_never_lowers_the_share(now: float, first: float) -> None:
    ready = state(status=Status.READY, step=-1, served=dataclasses.replace(OURS, percent=now))
    decision = decide(ready, seen(file=ready.served))
    assert (decision.action, decision.percent) == (Action.START, first)


def test_a_start_wants_the_file_to_be_what_runs() -> None:
    ready = state(status=Status.READY, step=-1)
    assert decide(ready, seen(file_runs=False)).action is Action.HOLD
    assert decide(ready, seen(file=FOREIGN)).action is Action.HOLD


def test_alpha_is_shared_out_between_the_steps_that_compare() -> None:
    assert plan().look_alpha == pytest.approx(0.05 / 4)
    assert plan(steps=[100]).look_alpha == pytest.approx(0.05)


def test_whatever_is_seen_the_ramp_only_climbs_one_step_or_falls_to_zero() -> None:
    dice = random.Random(7)
    for _ in range(300):
        current = state(status=Status.READY, step=-1, served=dataclasses.replace(OURS, percent=0.0))
        at = NOW
        for _ in range(30):
            at += dice.choice([10.0, 700.0])
            observation = _any_observation(dice, current, at)
            decision = decide(current, observation)
            assert decide(current, observation) == decision
            moved = after(current, decision, at=at)
            if decision.percent is not None:
                served = dataclasses.replace(OURS, percent=decision.percent)
                moved = dataclasses.replace(moved, served=served)
            steps = current.plan.steps
            match decision.action:
                case Action.START | Action.ADVANCE:
                    assert moved.step == current.step + 1
                    assert moved.served.percent == steps[moved.step]
                    assert observation.active_config == OURS.config_hash
                case Action.ROLL_BACK:
                    assert (moved.served.percent, moved.status.over) == (0.0, True)
                    assert observation.active_config == OURS.config_hash
                case _:
                    assert moved.served == current.served
            if current.status.over:
                assert moved == current
            current = moved


def _any_observation(dice: random.Random, current: State, at: float) -> Observation:
    return seen(
        at=at,
        active_config=dice.choice([OURS.config_hash] * 20 + ["", "b" * 12]),
        file=dice.choice([current.served] * 9 + [None, FOREIGN]),
        look=dice.choice([look(), look(), look(), OPEN, HARM, None]),
        treatment=dice.choice([Recent()] * 9 + [failing()]),
        control=dice.choice([Recent()] * 9 + [failing()]),
    )
