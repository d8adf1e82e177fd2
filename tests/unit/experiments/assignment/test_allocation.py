"""Buckets and splits: pure, sticky, monotone under ramps, fair."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.assignment import (
    N_BUCKETS,
    Allocation,
    assign,
    bucket_of,
    moved_units,
)

GOLDEN = Path(__file__).parents[3] / "golden" / "assignment.json"


def split(**percent: float) -> Allocation:
    return Allocation.from_percent(percent, control=next(iter(percent)))


units = st.text(min_size=1, max_size=40)


@st.composite
def ramps(draw: st.DrawFn) -> tuple[Allocation, Allocation]:
    """Two splits in which both treatments only grow."""
    first = draw(st.integers(0, 5000))
    second = draw(st.integers(0, 5000))
    more_first = draw(st.integers(first, 5000))
    more_second = draw(st.integers(second, 5000))

    def layout(a: int, b: int) -> Allocation:
        weights = {"control": N_BUCKETS - a - b, "a": a, "b": b}
        percent = {name: Decimal(n) / 100 for name, n in weights.items()}
        return Allocation.from_percent(percent, control="control")

    return layout(first, second), layout(more_first, more_second)


@given(units, st.text(max_size=20), st.text(max_size=20))
def test_bucket_is_in_range_and_depends_on_nothing_else(unit: str, salt: str, domain: str) -> None:
    bucket = bucket_of(unit, salt=salt, domain=domain)
    assert 0 <= bucket < N_BUCKETS
    assert bucket == bucket_of(unit, salt=salt, domain=domain)


@given(ramps(), units)
def test_ramp_moves_units_from_control_to_a_treatment_only(
    ramp: tuple[Allocation, Allocation], unit: str
) -> None:
    before, after = (assign(unit, allocation, salt="s").variant for allocation in ramp)
    assert before == after or (before == "control" and after in {"a", "b"})


@settings(max_examples=8)  # each compares all 10,000 buckets
@given(ramps())
def test_moved_units_of_a_ramp_start_at_control(ramp: tuple[Allocation, Allocation]) -> None:
    moved = moved_units(*ramp)
    assert all(old == "control" for old, _ in moved)
    before, after = (
        sum(r.end - r.start for r in allocation.ranges if r.variant != "control")
        for allocation in ramp
    )
    assert sum(moved.values()) == pytest.approx((after - before) / N_BUCKETS)


def test_moved_units_shows_that_resizing_the_first_of_three_treatments_shifts_the_third() -> None:
    before = split(control=70, a=10, b=10, c=10)
    after = split(control=65, a=15, b=10, c=10)
    assert moved_units(before, after) == {("c", "a"): 0.05, ("control", "c"): 0.05}


@given(st.integers(1, 99), st.text(min_size=1, max_size=10))
def test_split_is_within_three_sigma_of_the_weights(percent: int, salt: str) -> None:
    allocation = split(control=100 - percent, treatment=percent)
    n, p = 500, percent / 100
    treated = sum(
        assign(f"session-{i}", allocation, salt=salt).variant == "treatment" for i in range(n)
    )
    # 4.5 sigma: of the 50 examples of each run none may fail by chance (p < 1e-5 each).
    assert abs(treated - n * p) <= 4.5 * (n * p * (1 - p)) ** 0.5


def test_ten_thousand_sessions_split_within_three_sigma() -> None:
    allocation = split(stable=90, candidate=10)
    n = 10_000
    treated = sum(
        assign(f"session-{i}", allocation, salt="okla-v1-v2").variant == "candidate"
        for i in range(n)
    )
    assert abs(treated - n * 0.1) <= 3 * (n * 0.1 * 0.9) ** 0.5


def test_probability_is_the_share_of_buckets() -> None:
    allocation = split(control=87.5, a=12.5)
    assert allocation.variant_at(0) == ("a", 0.125, 0)
    assert allocation.variant_at(9999) == ("control", 0.875, 9999)


def test_domains_are_independent() -> None:
    both = sum(
        bucket_of(f"u{i}", salt="s", domain="enrolment") < 5000
        and bucket_of(f"u{i}", salt="s", domain="variant") < 5000
        for i in range(4000)
    )
    assert abs(both - 1000) <= 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_parts_cannot_be_shifted_between_salt_and_unit() -> None:
    assert bucket_of("bc", salt="a") != bucket_of("c", salt="ab")


def test_zero_weight_variant_gets_nobody() -> None:
    allocation = split(control=100, a=0)
    assert {r.variant for r in allocation.ranges} == {"control"}


def test_golden_buckets_of_the_committed_generator() -> None:
    """Made by `tests/golden/make_assignment.py`, which shares no code with the package."""
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(cases) >= 50
    for case in cases:
        got = bucket_of(case["unit"], salt=case["salt"], domain=case["domain"])
        assert got == case["bucket"], case


def test_another_process_gives_the_same_answers() -> None:
    program = (
        "from experiments.assignment import bucket_of\n"
        "print([bucket_of(f'u{i}', salt='s') for i in range(100)])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "4711", "PATH": ""},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(printed) == [bucket_of(f"u{i}", salt="s") for i in range(100)]


@pytest.mark.parametrize(
    ("percent", "names"),
    [
        pytest.param({"a": 90, "b": 7}, "97 %", id="sum too small"),
        pytest.param({"a": 90, "b": 20}, "110 %", id="sum too large"),
        pytest.param({"a": 101, "b": -1}, "101", id="out of range"),
        pytest.param({"a": 100, "b": -0.01}, "-0.01", id="negative"),
        pytest.param({"a": 99.999, "b": 0.001}, "0.01 percent", id="too fine"),
        pytest.param({"a": float("nan"), "b": 50}, "nan", id="NaN"),
        pytest.param({"a": float("inf"), "b": 0}, "inf", id="infinite"),
        pytest.param({"a": "half", "b": 50}, "'half'", id="no number"),
        pytest.param({"b": 100}, "control 'a'", id="control missing"),
        pytest.param({}, "control 'a'", id="empty"),
    ],
)
def test_bad_weights_are_refused_with_the_value(percent: dict[str, float], names: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        Allocation.from_percent(percent, control="a")
    assert names in str(caught.value)


def test_empty_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="sticky"):
        bucket_of("", salt="s")


@pytest.mark.parametrize("bucket", [-1, N_BUCKETS])
def test_bucket_outside_the_range_is_refused(bucket: int) -> None:
    with pytest.raises(ValueError, match=str(bucket)):
        split(control=50, a=50).variant_at(bucket)


def test_the_order_in_a_file_does_not_move_units() -> None:
    one = Allocation.from_percent({"a": 20, "b": 50, "c": 30}, control="a")
    other = Allocation.from_percent({"c": 30, "a": 20, "b": 50}, control="a")
    assert one == other
