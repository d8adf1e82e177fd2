"""Which rows a step gets, on costs as measured on real CPUs and on made-up ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.batching import (
    MAX_GUESSED_ROWS,
    group,
    prompt_rows,
    spare_rows,
)
from serve_app.engines.llama_cpp.row_costs import RowCosts

# Milliseconds per step of a 1.2B model on two cores, by rows.
MEASURED = {1: 31, 2: 49, 4: 79, 6: 120, 7: 133, 8: 174, 9: 186, 12: 237, 14: 263, 15: 281, 16: 208}


def costs_of(table, *, prompt_row_s=None):
    costs = RowCosts()
    for rows, ms in table.items():
        costs.record(rows, rows, ms / 1000)
    if prompt_row_s is not None:
        costs.record(200, 0, 200 * prompt_row_s)
    return costs


def test_eight_are_split_where_seven_go_faster_per_token():
    assert group(costs_of(MEASURED), [1] * 8) == 7


def test_sixteen_stay_together_where_that_is_the_best_size():
    assert group(costs_of(MEASURED), [1] * 16) == 16
    assert group(costs_of(MEASURED), [1] * 4) == 4


def test_everybody_goes_while_nothing_is_known():
    assert group(RowCosts(), [1] * 8) == 8
    assert spare_rows(RowCosts(), 8, 8, [0.9] * 8) == 0


def test_blanks_fill_a_step_that_is_cheaper_with_them():
    costs = costs_of(MEASURED)
    assert spare_rows(costs, 14, 14, []) == 2
    assert spare_rows(costs, 15, 15, []) == 1
    assert spare_rows(costs, 16, 16, []) == 0


def test_guesses_are_taken_where_rows_are_cheap_and_left_where_they_are_dear():
    cheap = costs_of({1: 100, 16: 110})
    dear = costs_of({1: 30, 16: 480})
    assert spare_rows(cheap, 1, 1, [0.5, 0.25, 0.125]) == 3
    assert spare_rows(dear, 1, 1, [0.5, 0.25, 0.125]) == 0


def test_long_guesses_that_are_all_but_certain_fill_a_large_step():
    costs = costs_of({1: 2, 64: 8, 160: 17})
    assert spare_rows(costs, 2, 2, [0.99] * 50) == 50
    assert spare_rows(costs, 2, 2, [0.99] * 300) == MAX_GUESSED_ROWS
    assert 18 <= spare_rows(costs, 2, 2, [0.99] * 20 + [0.001] * 30) <= 24


@given(
    st.dictionaries(st.integers(1, 64), st.floats(1, 1000), min_size=2),
    st.lists(st.integers(1, 5), min_size=1, max_size=16),
)
def test_a_group_is_never_slower_than_everybody(table, rows):
    costs = costs_of(table)
    n = group(costs, rows)
    assert 1 <= n <= len(rows)
    together = len(rows) / costs.decode_s(sum(rows))
    assert n / costs.decode_s(sum(rows[:n])) >= together * 0.999


def test_prompt_rows_keep_the_step_short_while_answers_run():
    costs = costs_of({4: 90}, prompt_row_s=0.02)  # a model for which a tile takes too long
    beside, alone = (prompt_rows(costs, n, max_rows=512) for n in (4, 0))
    assert 0.02 * beside + 0.09 <= 0.42
    assert beside <= alone <= 20


def test_a_whole_tile_is_taken_where_it_takes_hardly_longer():
    costs = costs_of({1: 31, 8: 200}, prompt_row_s=0.0065)
    assert prompt_rows(costs, 8, max_rows=512) == 56
    assert prompt_rows(costs, 0, max_rows=512) == 64


def test_prompts_get_longer_steps_the_more_requests_wait_for_each_answer():
    costs = costs_of({1: 40, 16: 270}, prompt_row_s=0.0105)  # a tile takes just too long

    def rows(n_answers: int, n_waiting: int) -> int:
        return prompt_rows(costs, n_answers, max_rows=512, n_answers=n_answers, n_waiting=n_waiting)

    assert rows(1, 0) == rows(1, 1) == 15
    assert [rows(1, 15), rows(8, 8), rows(11, 5)] == [63, 56, 53]
    assert rows(14, 1) <= 18  # one more prompt does not hold up fourteen answers
    assert [rows(0, 1), rows(0, 16)] == [32, 64]


def test_a_crowd_does_not_stop_the_answers_of_a_slow_model():
    costs = costs_of({1: 300}, prompt_row_s=0.07)
    assert prompt_rows(costs, 1, max_rows=512, n_answers=1, n_waiting=30) <= 16


@pytest.mark.parametrize("row_s", [0.0001, 0.001, 0.0065])
@pytest.mark.parametrize("n_decode", [0, 1, 8, 16])
def test_steps_of_quick_models_are_whole_tiles(n_decode, row_s):
    costs = costs_of({1: 1, 16: 2}, prompt_row_s=row_s)
    assert (n_decode + prompt_rows(costs, n_decode, max_rows=4096)) % 64 == 0


@pytest.mark.parametrize("n_decode", range(12))
def test_a_step_of_a_slow_model_is_a_whole_number_of_blocks(n_decode):
    costs = costs_of({1: 30, 16: 200}, prompt_row_s=0.05)
    assert (n_decode + prompt_rows(costs, n_decode, max_rows=512)) % 4 == 0


@given(st.integers(0, 40), st.integers(1, 600), st.floats(1e-5, 1.0))
def test_there_is_always_a_prompt_row_and_never_more_than_fit(n_decode, left, row_s):
    costs = costs_of({1: 30}, prompt_row_s=row_s)
    assert 1 <= prompt_rows(costs, n_decode, max_rows=left) <= left
