"""Bandit allocation: deterministic, floored, and right about the winner."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from experiments.stats.bayes import BetaPosterior, NormalPosterior
from experiments.stats.errors import InvalidStatistic
from experiments.stats.thompson import ThompsonPolicy, ThompsonRule, thompson_shares
from experiments.stats.track_and_stop import (
    ArmState,
    TrackAndStopRule,
    jeffreys_rate,
    plan,
)

ARMS = {"a": BetaPosterior(71, 31), "b": BetaPosterior(76, 26), "c": BetaPosterior(60, 42)}
UNITS = dict.fromkeys(ARMS, 100)
FREE = TrackAndStopRule(min_share=0.0)


GOLDEN = Path(__file__).parents[3] / "golden" / "stats" / "optimal_shares.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_optimal_shares_match_published_reference_solutions(case: dict[str, Any]) -> None:
    states = zip(case["units"], case["means"], case["variances"], strict=True)
    arms = {f"arm{i}": ArmState(n, mean, spread) for i, (n, mean, spread) in enumerate(states)}
    rule = TrackAndStopRule(
        epsilon=case["epsilon"],
        min_share=case["min_share"],
        ridge=case["ridge"],
        min_units_per_arm=1,
    )
    shares = plan(arms, rule).shares
    assert [shares[name] for name in arms] == pytest.approx(case["shares"], abs=1e-4)


@pytest.mark.parametrize("policy", list(ThompsonPolicy))
def test_shares_are_deterministic_and_do_not_depend_on_the_order_of_arms(
    policy: ThompsonPolicy,
) -> None:
    rule = ThompsonRule(policy=policy)
    first = thompson_shares(ARMS, UNITS, seed=3, rule=rule)
    backwards = dict(reversed(ARMS.items()))
    assert first == thompson_shares(backwards, UNITS, seed=3, rule=rule)
    assert first != thompson_shares(ARMS, UNITS, seed=4, rule=rule)
    assert sum(first.values()) == pytest.approx(1.0)
    assert min(first.values()) >= rule.min_share


def test_thompson_share_is_the_probability_to_be_best() -> None:
    arms = {"a": NormalPosterior(0.0, 1.0), "b": NormalPosterior(1.0, 1.0)}
    rule = ThompsonRule(policy=ThompsonPolicy.THOMPSON, min_share=0.0)
    shares = thompson_shares(arms, {"a": 100, "b": 100}, seed=1, rule=rule)
    assert shares["b"] == pytest.approx(0.7602, abs=0.015)  # Phi(1 / sqrt 2)


def test_top_two_gives_the_runner_up_half_in_a_duel() -> None:
    arms = {"a": NormalPosterior(0.0, 0.1), "b": NormalPosterior(1.0, 0.1)}
    rule = ThompsonRule(min_share=0.0)
    shares = thompson_shares(arms, {"a": 100, "b": 100}, seed=1, rule=rule)
    assert shares == {"a": 0.5, "b": 0.5}


def test_shares_stay_equal_until_every_arm_has_enough_units() -> None:
    shares = thompson_shares(ARMS, {**UNITS, "c": 99}, seed=1)
    assert set(shares.values()) == {1 / 3}


def test_floor_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InvalidStatistic, match="min_share"):
        thompson_shares(ARMS, UNITS, seed=1, rule=ThompsonRule(min_share=0.4))


@pytest.mark.parametrize(
    "arms",
    [
        {"a": ArmState(500, 1.0, 1.0), "b": ArmState(500, 0.9, 4.0), "c": ArmState(500, 0.5, 1.0)},
        {"a": ArmState(500, 1.0, 3.0), "b": ArmState(500, 0.9, 1.0), "c": ArmState(500, 0.8, 2.0)},
    ],
)
def test_optimal_shares_agree_with_a_general_optimiser(arms: dict[str, ArmState]) -> None:
    found = plan(arms, FREE)
    best, rivals = arms["a"], [arms["b"], arms["c"]]

    def level(w: np.ndarray) -> float:
        return max(
            2 * (best.variance / w[0] + rival.variance / share) / (best.mean - rival.mean) ** 2
            for rival, share in zip(rivals, w[1:], strict=True)
        )

    weights = np.array([found.shares[name] for name in arms])
    ours = level(weights)
    for seed in range(200):
        other = np.random.default_rng(seed).dirichlet(200 * weights + 0.5)
        if other.min() > 1e-4:
            assert level(other) >= ours * (1 - 1e-9)
    start = np.append(weights * 0.9 + 0.1 / 3, ours * 1.2)
    oracle = scipy.optimize.minimize(
        lambda z: z[3] / ours,
        start,
        method="SLSQP",
        bounds=[(1e-4, 1.0)] * 3 + [(0, None)],
        constraints=[
            {"type": "eq", "fun": lambda z: z[:3].sum() - 1},
            {
                "type": "ineq",
                "fun": lambda z: (
                    np.array(
                        [
                            z[3]
                            - 2
                            * (best.variance / z[0] + rival.variance / z[1 + i])
                            / (best.mean - rival.mean) ** 2
                            for i, rival in enumerate(rivals)
                        ]
                    )
                    / ours
                ),
            },
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert ours <= level(oracle.x[:3]) * (1 + 1e-6)


def test_two_equal_arms_of_ten_successes_do_not_stop() -> None:
    # The defect of plug-in variances: 10/10 and 10/10 must not name a winner
    arms = {"a": jeffreys_rate(10, 10), "b": jeffreys_rate(10, 10)}
    rule = TrackAndStopRule(min_units_per_arm=10, epsilon=0.01)
    assert not plan(arms, rule).stopped


def test_clear_winner_stops_and_keeps_the_floor() -> None:
    arms = {"a": jeffreys_rate(900, 1000), "b": jeffreys_rate(700, 1000)}
    found = plan(arms, TrackAndStopRule(min_share=0.1))
    assert found.stopped
    assert found.leader == "a"
    assert min(found.shares.values()) >= 0.1 - 1e-12


def test_three_equal_arms_rarely_stop() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(60):
        draws = rng.random((3, 1500)) < 0.7
        for n in range(300, 1501, 300):
            arms = {
                name: jeffreys_rate(int(d[:n].sum()), n)
                for name, d in zip("abc", draws, strict=True)
            }
            if plan(arms).stopped:
                wrong += 1
                break
    assert wrong / 60 <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5
