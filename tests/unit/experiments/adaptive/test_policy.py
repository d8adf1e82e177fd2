"""The shares that results ask for, and how far a split goes at a time."""

import dataclasses
import math
import random
from typing import Any

import pytest

from experiments.adaptive.declaration import Method
from experiments.adaptive.observe import averaged
from experiments.adaptive.policy import bounded, decide, seed_of
from experiments.adaptive.records import Action, Arm, Code, Observation, Plan, Served, State, Status
from experiments.decision.verdict import Reason, ReasonCode, Verdict
from experiments.stats.moments import MeanStats

SERVED = Served(percent={"a": 50.0, "b": 50.0}, config_hash="x" * 12, file_sha256="f" * 64)


def plan(**changes: Any) -> Plan:
    base = Plan(
        method=Method.THOMPSON,
        metric="thumbs",
        min_percent=10,
        max_step=20,
        min_units_per_arm=100,
        min_new_units=50,
        every_s=60,
        seed=0,
        best_probability=0.99,
        max_expected_loss=None,
    )
    return dataclasses.replace(base, **changes)


def state(**changes: Any) -> State:
    base = State(experiment="exp", version=1, control="a", plan=plan(), served=SERVED)
    return dataclasses.replace(base, **changes)


def seen(**changes: Any) -> Observation:
    base = Observation(
        at=1000.0,
        active_config=SERVED.config_hash,
        file=SERVED,
        units=600,
        arms={"a": arm(0.60), "b": arm(0.63)},
    )
    return dataclasses.replace(base, **changes)


def arm(mean: float, n: int = 300, standard_error: float = 0.028) -> Arm:
    return Arm(n=n, mean=mean, standard_error=standard_error)


@pytest.mark.parametrize(
    ("state_changes", "seen_changes", "action", "code"),
    [
        pytest.param({}, {}, Action.MOVE, Code.FOLLOWS_RESULTS, id="ahead"),
        pytest.param({"served_at": 950.0}, {}, Action.HOLD, Code.TOO_EARLY, id="too early"),
        pytest.param({"units_then": 560}, {}, Action.HOLD, Code.TOO_FEW_UNITS, id="few new"),
        pytest.param({}, {"problem": "alike"}, Action.HOLD, Code.METRIC_UNDEFINED, id="no spread"),
        pytest.param({}, {"arms": {"a": arm(0.6, 99)}}, Action.HOLD, Code.BURN_IN, id="burn-in"),
        pytest.param(
            {}, {"active_config": ""}, Action.HOLD, Code.CONFIG_UNKNOWN, id="gateways disagree"
        ),
        pytest.param(
            {}, {"active_config": "y"}, Action.REFUSE, Code.CONFIG_FOREIGN, id="a stale config"
        ),
        pytest.param({}, {"file": None}, Action.HOLD, Code.FILE_EDITED, id="unreadable file"),
        pytest.param(
            {},
            {"arms": {"a": arm(0.6), "b": arm(0.8)}},
            Action.RECOMMEND,
            Code.BEST_KNOWN,
            id="known",
        ),
        pytest.param(
            {"plan": plan(max_expected_loss=0.01)},
            {},
            Action.RECOMMEND,
            Code.LOSS_SMALL,
            id="cheap to choose",
        ),
        pytest.param(
            {"status": Status.RECOMMENDED}, {}, Action.HOLD, Code.OVER, id="over stays over"
        ),
        pytest.param(
            {},
            {
                "doubts": (Reason(code=ReasonCode.SAMPLE_RATIO_MISMATCH, detail="p 0"),),
                "arms": {"a": arm(0.6), "b": arm(0.9)},
            },
            Action.HOLD,
            Code.UNHEALTHY,
            id="data that cannot be believed moves nothing",
        ),
    ],
)
def test_a_situation_has_one_answer(
    state_changes: dict[str, Any], seen_changes: dict[str, Any], action: Action, code: Code
) -> None:
    decision = decide(state(**state_changes), seen(**seen_changes))
    assert (decision.action, decision.reasons[0].code) == (action, code)


def test_a_recommendation_speaks_as_the_decision_does() -> None:
    better = decide(state(), seen(arms={"a": arm(0.6), "b": arm(0.8)})).recommendation
    worse = decide(state(), seen(arms={"a": arm(0.8), "b": arm(0.6)})).recommendation
    assert better is not None
    assert worse is not None
    assert (better.verdict, better.variant) == (Verdict.PROMOTE_B, "b")
    assert (worse.verdict, worse.variant) == (Verdict.KEEP_A, "a")


def test_the_same_evidence_gives_the_same_shares_and_another_decision_other_draws() -> None:
    first, again = decide(state(), seen()), decide(state(), seen())
    assert first == again
    later = decide(state(n_decisions=1), seen())
    assert first.seed != later.seed
    assert seed_of(state()) != seed_of(state(plan=plan(seed=1)))
    assert 50 < dict(first.percent or {})["b"] <= 70


def test_top_two_of_three_keeps_the_runner_up() -> None:
    served = dataclasses.replace(SERVED, percent={"a": 33.34, "b": 33.33, "c": 33.33})
    arms = {"a": arm(0.6), "b": arm(0.64), "c": arm(0.4)}
    for method in (Method.TOP_TWO, Method.TRACK_AND_STOP):
        found = decide(
            state(served=served, plan=plan(method=method, best_probability=0.9999)),
            seen(arms=arms, file=served),
        )
        shares = dict(found.percent or {})
        assert math.isclose(sum(shares.values()), 100.0)
        assert shares["c"] == min(shares.values())
        assert min(shares["a"], shares["b"]) > 35


def test_a_step_adds_up_to_100_stays_above_the_floor_and_goes_no_further_than_declared() -> None:
    draw = random.Random(3)
    for _ in range(500):
        k = draw.randint(2, 6)
        floor, step = draw.uniform(0, 100 / k - 1), draw.uniform(1, 50)
        splits = []
        for _ in range(2):
            weights = [draw.random() for _ in range(k)]
            free = 100 - k * floor
            splits.append({f"v{i}": floor + free * w / sum(weights) for i, w in enumerate(weights)})
        found = bounded(splits[0], splits[1], max_step=step, floor=floor)
        parts = [round(100 * share) for share in found.values()]
        assert sum(parts) == 10_000
        assert all(math.isclose(100 * s, p) for s, p in zip(found.values(), parts, strict=True))
        assert min(found.values()) >= floor - 0.01
        assert max(abs(found[v] - splits[0][v]) for v in found) <= step + 0.01


def test_periods_weigh_the_same_for_every_variant_whatever_time_does() -> None:
    def rate(n: int, successes: int) -> MeanStats:
        return MeanStats(n=n, sum=successes, sum_squares=successes)

    early = {"a": rate(900, 270), "b": rate(100, 30)}
    late = {"a": rate(100, 80), "b": rate(900, 720)}
    found = averaged([early, late], ["a", "b"], sign=1)
    assert found.arms["a"].mean == pytest.approx(found.arms["b"].mean)
    assert found.arms["a"].mean == pytest.approx(0.55)
    assert averaged([early], ["a", "b"], sign=-1).arms["a"].mean == pytest.approx(-0.3)
    alike = {"a": rate(50, 50), "b": rate(50, 25)}
    assert "differs from another" in averaged([alike], ["a", "b"], sign=1).problem
