from pathlib import Path

import pytest

from tests.benchmarks import guard, report
from tests.benchmarks.spread import Spread


def at(median: float, low: float, high: float) -> dict[str, float]:
    return {"median": median, "min": low, "max": high}


@pytest.mark.parametrize(
    ("name", "now", "is_worse"),
    [
        pytest.param("cold_c8_vs_llama_server", at(1.6, 1.5, 1.69), True, id="all rounds slower"),
        pytest.param("cold_c8_vs_llama_server", at(1.6, 1.5, 1.71), False, id="one round as good"),
        pytest.param("max_itl_vs_llama_server", at(2.5, 2.31, 3.0), True, id="all gaps longer"),
        pytest.param("max_itl_vs_llama_server", at(2.5, 2.29, 3.0), False, id="one gap as short"),
        pytest.param("without_packing_burst", at(0.1, 0.1, 0.1), False, id="has no target"),
    ],
)
def test_a_ratio_is_worse_when_its_best_round_is(
    name: str, now: dict[str, float], is_worse: bool
) -> None:
    assert bool(guard.worse({name: now}, {name: 2.0})) is is_worse


def test_what_was_not_measured_is_not_compared() -> None:
    assert guard.worse({}, {"max_itl_vs_llama_server": 0.1}) == []
    assert guard.worse({"max_itl_vs_llama_server": at(9, 9, 9)}, {}) == []


def test_recorded_ratios_are_what_the_next_run_is_held_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setattr(guard, "REFERENCE", tmp_path / "reference.json")
    assert guard.main([]) == 2  # nothing measured
    run = report.start("burst")
    run.publish(ratios={"cold_c8_vs_llama_server": Spread(2.0, 1.9, 2.1, 3)}, absolutes={})
    assert guard.main([]) == 2  # nothing recorded
    assert guard.main(["--record"]) == 0
    assert guard.main([]) == 0
    run.publish(ratios={"cold_c8_vs_llama_server": Spread(1.0, 0.9, 1.1, 3)}, absolutes={})
    assert guard.main([]) == 1
    assert "worse: cold_c8_vs_llama_server: 2 before, 1.1 in the best" in capsys.readouterr().out
