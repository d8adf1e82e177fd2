"""What steps cost, learned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.row_costs import RowCosts, calibrate


def learned(table):
    costs = RowCosts()
    for rows, seconds in table.items():
        costs.record(rows, rows, seconds)
    return costs


def test_nothing_is_known_at_first():
    costs = RowCosts()
    assert costs.decode_s(1) is None
    assert costs.prompt_row_s is None


def test_measured_sizes_are_exact_and_others_lie_between():
    costs = learned({1: 0.03, 4: 0.09, 16: 0.21})
    assert costs.decode_s(4) == 0.09
    assert costs.decode_s(10) == pytest.approx(0.15)
    assert costs.decode_s(32) == pytest.approx(0.42)


def test_costs_need_not_grow_with_rows():
    costs = learned({14: 0.26, 16: 0.22})
    assert costs.decode_s(16) < costs.decode_s(15) < costs.decode_s(14)


def test_a_hiccup_moves_an_average_only_a_little():
    costs = learned({8: 0.1})
    costs.record(8, 8, 60.0)
    assert costs.decode_s(8) == pytest.approx(0.12)
    for _ in range(200):
        costs.record(8, 8, 0.2)
    assert costs.decode_s(8) == pytest.approx(0.2, rel=0.01)


def test_prompt_rows_are_told_apart_from_the_answers_beside_them():
    costs = learned({4: 0.1})
    costs.record(104, 4, 1.1)
    assert costs.prompt_row_s == pytest.approx(0.01)
    assert costs.decode_s(4) == 0.1


def test_a_size_that_was_measured_badly_is_soon_known_better():
    costs = learned({1: 0.064, 2: 0.045})
    for _ in range(4):
        costs.record(1, 1, 0.028)
    assert costs.decode_s(1) < 0.031


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-4, 10), min_size=1), st.integers(1, 512))
def test_an_estimate_is_never_negative_nor_absurd(table, rows):
    costs = learned(table)
    estimate = costs.decode_s(rows)
    assert 0 < estimate <= max(table.values()) * max(1, rows / min(table)) * 1.001


def test_calibration_ends_with_its_time_and_never_goes_beyond_the_batch():
    costs = RowCosts()
    tried = []

    def step(n_rows):
        tried.append(n_rows)
        return 0.1 * n_rows

    calibrate(costs, step, max_rows=8, budget_s=1.5, rows=(1, 16, 4, 8, 2))
    assert tried == [1, 1, 4, 8, 2, 1, 2, 4]
    assert costs.decode_s(8) == pytest.approx(0.8)


def test_a_slow_start_does_not_make_one_row_dear_for_good():
    costs = RowCosts()
    seconds = {1: 0.05, 2: 0.08, 4: 0.11, 16: 0.25}
    now = 0.0

    def step(n_rows):
        nonlocal now
        slow = 8.0 if now < 1.0 else 1.0
        now += slow * seconds[n_rows]
        return slow * seconds[n_rows]

    calibrate(costs, step, max_rows=16, budget_s=1.0, rows=(1, 16, 4, 2))
    assert costs.decode_s(1) == pytest.approx(0.05)


def test_a_first_step_that_takes_all_the_time_leaves_the_sizes_that_matter_known():
    costs = RowCosts()
    times = iter([9.0])
    calibrate(costs, lambda rows: next(times, 0.1 * rows), max_rows=16, budget_s=3.0)
    assert [costs.decode_s(n) for n in (1, 2, 4, 16)] == pytest.approx([0.1, 0.2, 0.4, 1.6])


def test_calibration_takes_the_better_of_two_tries():
    costs = RowCosts()
    times = iter([9.0, 0.5, 0.3, 0.1, 0.4])
    calibrate(costs, lambda _rows: next(times), max_rows=8, budget_s=20.0, rows=(2, 4))
    assert costs.decode_s(2) == pytest.approx(0.1)
    assert costs.decode_s(4) == pytest.approx(0.3)


def test_what_was_measured_elsewhere_is_a_beginning_of_ones_own():
    measured, other = RowCosts(), RowCosts()
    calibrate(measured, lambda rows: 0.1 * rows, max_rows=8, budget_s=9.0, rows=(1, 4, 8))
    other.adopt(measured)
    assert other.decode_s(6) == measured.decode_s(6)
    other.record(4, 4, 0.05)
    assert other.decode_s(4) < measured.decode_s(4) == pytest.approx(0.4)
