"""The number of replicas as a function of the load."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import ScalingConfig, parse_model_config
from serve_app.errors import ConfigError
from serve_app.model.autoscaling import (
    ReplicaLoad,
    ScalingTargets,
    ServiceClock,
    expected_wait_s,
    wanted_replicas,
)
from serve_app.model.scaling_policy import scale

TARGETS = ScalingTargets(target_wait_s=5, kv_high=0.9, low_rate=0.6)
BUSY = ReplicaLoad(running=8, waiting=0, slots=8, kv_used=500, kv_capacity=1000, service_s=10)


def test_full_slots_alone_add_nothing() -> None:
    assert wanted_replicas([BUSY], 0, TARGETS, aimed_at=1).replicas == 1


def test_wait_beyond_the_target_adds_as_many_as_bring_it_back() -> None:
    # 24 requests of 10 s before 8 slots wait 30 s; within 5 s means 48 slots, and 32 requests in
    # all would fill four replicas; but one decision only doubles.
    load = replace(BUSY, waiting=20)
    assert wanted_replicas([load], 4, TARGETS, aimed_at=1).replicas == 2
    wanted = wanted_replicas([load, replace(load, waiting=0)], 4, TARGETS, aimed_at=2)
    assert wanted.replicas == 4
    assert "15.0 s" in wanted.reason


def test_requests_that_wait_in_front_count_like_those_inside() -> None:
    inside = wanted_replicas([replace(BUSY, waiting=6)], 0, TARGETS, aimed_at=1)
    in_front = wanted_replicas([BUSY], 6, TARGETS, aimed_at=1)
    assert inside == in_front
    assert in_front.replicas == 2


def test_replicas_that_are_starting_are_counted() -> None:
    load = replace(BUSY, waiting=6)
    assert wanted_replicas([load], 0, TARGETS, aimed_at=2).replicas == 2


def test_full_memory_adds_a_replica_although_nobody_waits() -> None:
    wanted = wanted_replicas([replace(BUSY, kv_used=950)], 0, TARGETS, aimed_at=1)
    assert wanted.replicas == 2
    assert "95%" in wanted.reason


def test_where_memory_is_full_a_replica_has_fewer_places_than_slots() -> None:
    load = replace(BUSY, running=2, waiting=2, kv_used=950)
    assert expected_wait_s(waiting=2, service_s=10, places=8) < TARGETS.target_wait_s
    wanted = wanted_replicas([load], 0, TARGETS, aimed_at=1)
    assert wanted.replicas == 2
    assert "10.0 s" in wanted.reason


def test_idle_replicas_go_by_halves_down_to_one() -> None:
    nothing = replace(BUSY, running=0, kv_used=0)
    assert [
        wanted_replicas([nothing] * n, 0, TARGETS, aimed_at=n).replicas for n in (8, 4, 2, 1)
    ] == [4, 2, 1, 1]


def test_replica_stays_while_the_others_would_be_too_full() -> None:
    half = replace(BUSY, running=3, kv_used=100)
    assert wanted_replicas([half] * 2, 0, TARGETS, aimed_at=2).replicas == 2  # 6 > 0.6 * 8
    assert wanted_replicas([replace(half, running=2)] * 2, 0, TARGETS, aimed_at=2).replicas == 1
    by_memory = replace(half, running=2, kv_used=400)
    assert wanted_replicas([by_memory] * 2, 0, TARGETS, aimed_at=2).replicas == 2


def test_without_reports_nothing_changes() -> None:
    assert wanted_replicas([], 50, TARGETS, aimed_at=3).replicas == 3


loads = st.builds(
    ReplicaLoad,
    running=st.floats(0, 8),
    waiting=st.floats(0, 64),
    slots=st.just(8.0),
    kv_used=st.floats(0, 1000),
    kv_capacity=st.sampled_from([0.0, 1000.0]),
    service_s=st.floats(0, 100),
)


@given(st.lists(loads, min_size=1, max_size=6), st.floats(0, 200))
def test_load_that_added_replicas_does_not_take_them_away_again(
    reports: list[ReplicaLoad], queued: float
) -> None:
    n = len(reports)
    # Reports of one deployment: all count KV cells, or none does.
    reports = [replace(load, kv_capacity=reports[0].kv_capacity) for load in reports]
    wanted = wanted_replicas(reports, queued, TARGETS, aimed_at=n).replicas
    assert 1 <= wanted <= 2 * n
    if wanted > n:
        again = wanted_replicas(reports, queued, TARGETS, aimed_at=wanted).replicas
        assert again >= n


@given(st.lists(loads, min_size=1, max_size=6), st.floats(0, 100), st.floats(0, 100))
def test_more_waiting_never_means_fewer_replicas(
    reports: list[ReplicaLoad], queued: float, more: float
) -> None:
    n = len(reports)
    few = wanted_replicas(reports, queued, TARGETS, aimed_at=n).replicas
    assert wanted_replicas(reports, queued + more, TARGETS, aimed_at=n).replicas >= few


def test_expected_wait_is_that_of_a_saturated_queue() -> None:
    """A queue in front of c exponential servers moves every s/c seconds."""
    rng = np.random.default_rng(7)
    c, service_s, ahead, waits = 4, 2.0, 10, []
    for _ in range(4000):
        free_at = np.sort(rng.exponential(service_s, c))
        for _ in range(ahead):
            free_at[0] += rng.exponential(service_s)
            free_at.sort()
        waits.append(free_at[0])
    expected = expected_wait_s(waiting=ahead + 1, service_s=service_s, places=c)
    assert np.mean(waits) == pytest.approx(expected, rel=0.03)


def test_clock_measures_the_time_in_a_slot() -> None:
    rng = np.random.default_rng(3)
    clock = ServiceClock(memory_s=300)
    # Two slots, always taken, exponential durations of 4 s: 5,000 s of it.
    ends = sorted(t for slot in range(2) for t in np.cumsum(rng.exponential(4.0, 1250)) if t < 5000)
    clock.observe(0.0, 2)
    for end in ends:
        clock.observe(end, 2, departed=1)
    # 150 departures are remembered: standard error of their mean 4 / sqrt(150) = 0.33.
    assert clock.service_s == pytest.approx(4.0, abs=1.0)


def test_clock_counts_what_still_runs() -> None:
    clock = ServiceClock(memory_s=1e9)
    clock.observe(0.0, 1)
    clock.observe(30.0, 1)
    assert clock.service_s == pytest.approx(30.0)
    clock.observe(30.0, 0, departed=1)
    clock.observe(1000.0, 0)
    assert clock.service_s == pytest.approx(30.0)


def context(**changes: Any) -> Any:
    report = {
        "running": 8.0,
        "waiting": 2.0,
        "slots": 8.0,
        "kv_used": 0.0,
        "kv_capacity": 0.0,
        "service_s": 10.0,
        **ScalingConfig().model_dump(),
    } | changes.pop("report", {})
    fields: dict[str, Any] = {
        "app_name": "okla-stable",
        "target_num_replicas": 1,
        "total_queued_requests": 10.0,
        "aggregated_metrics": {name: {"r1": value} for name, value in report.items()},
        "policy_state": {},
    }
    return SimpleNamespace(**(fields | changes))


def test_policy_reads_load_and_thresholds_from_the_reports() -> None:
    assert scale(context())[0] == 2
    assert scale(context(report={"target_wait_s": 20.0}))[0] == 1


def test_policy_leaves_the_number_alone_until_a_replica_reports_everything() -> None:
    assert scale(context(aggregated_metrics={}, target_num_replicas=3))[0] == 3
    partial = {"slots": {"r1": 8.0}, "waiting": {"r1": 99.0}}
    assert scale(context(aggregated_metrics=partial, target_num_replicas=3))[0] == 3


def test_thresholds_that_would_swing_are_refused() -> None:
    with pytest.raises(ConfigError, match="come and go"):
        parse_model_config({"engine": "echo", "scaling": {"kv_high": 0.5}})
