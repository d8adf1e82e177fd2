from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serve_app.config import LlamaCppOptions
from tests.benchmarks import options
from tests.benchmarks.prompts import questions, system_prompt
from tests.benchmarks.servers import Server
from tests.benchmarks.sides import Loaded, alternate, order
from tests.benchmarks.stream_load import Result


def test_sides_take_turns_and_stay_up_over_neighbouring_rounds() -> None:
    assert list(order(["a", "b"], 3)) == [
        ("a", [0]),
        ("b", [0, 1]),
        ("a", [1, 2]),
        ("b", [2]),
    ]


def test_one_server_runs_at_a_time_and_is_stopped() -> None:
    log: list[str] = []

    @contextmanager
    def side(name: str) -> Iterator[Server]:
        log.append(f"{name} up")
        yield Server(name, name)
        log.append(f"{name} down")

    found = alternate(
        {"a": lambda: side("a"), "b": lambda: side("b")},
        2,
        lambda server, number: f"{server.url}{number}",
    )
    assert found == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    assert log == ["a up", "a down", "b up", "b down", "a up", "a down"]


def test_a_server_is_stopped_when_measuring_fails() -> None:
    stopped = []

    @contextmanager
    def side() -> Iterator[Server]:
        try:
            yield Server("", "")
        finally:
            stopped.append(True)

    with pytest.raises(ZeroDivisionError):
        alternate({"a": side}, 1, lambda server, number: 1 / 0)
    assert stopped == [True]


def test_an_answer_that_ended_early_counts_for_its_part() -> None:
    results = [Result(label="", completion_tokens=n) for n in (48, 48, 24)]
    assert Loaded(results, wall_s=30.0, client_cpu_s=0.0).requests_per_min(48) == 5.0


def test_no_round_shares_the_start_of_its_system_prompt() -> None:
    prompts = [system_prompt(n, tokens=600) for n in range(20)]
    assert len({prompt[:4] for prompt in prompts}) == 20
    assert len({len(prompt.split()) for prompt in prompts}) == 1


def test_questions_differ() -> None:
    assert len({*questions(40), *questions(8, first=40)}) == 48


def test_ablation_has_a_row_per_switch_of_the_engine() -> None:
    rows = options.rows()
    assert rows.pop("all_on") == {}
    assert {"no_prefix_cache", "no_flash_attention"} <= rows.keys()
    for changed in rows.values():
        ((name, value),) = changed.items()
        assert value is False
        assert getattr(LlamaCppOptions(), name) is True
        assert getattr(LlamaCppOptions(**changed), name) is False


def test_options_for_random_weights_are_valid() -> None:
    LlamaCppOptions(**options.comparable())
