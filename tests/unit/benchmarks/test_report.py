import json
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.spread import Spread, percentile, ratios, spread
from tests.benchmarks.targets import TARGETS


def test_ratio_is_taken_round_by_round() -> None:
    # The second round was twice as slow for both: the ratio of medians would say 1.0.
    found = ratios([10, 40, 12], [5, 20, 24])
    assert (found.median, found.min, found.max, found.n) == (2.0, 0.5, 2.0, 3)


def test_no_ratio_to_a_peer_that_did_nothing() -> None:
    with pytest.raises(ValueError, match="zero"):
        ratios([1.0], [0.0])


def test_no_spread_of_nothing() -> None:
    with pytest.raises(ValueError, match="no round"):
        spread([])


def test_percentile_is_a_value_that_occurred() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.99) == 99


def test_scenarios_are_merged_and_replaced(tmp_path: Path) -> None:
    report.start("one", tmp_path).publish(ratios={"a": Spread(2, 1, 3, 3)}, absolutes={})
    report.start("two", tmp_path).publish(ratios={"b": 1.5}, absolutes={"x": spread([1, 2], "ms")})
    report.start("one", tmp_path).publish(ratios={"c": 0.5}, absolutes={})

    known = json.loads((tmp_path / "latest.json").read_text(encoding="utf-8"))
    assert known["ratios"] == {"c": 0.5, "b": 1.5}
    assert known["spread"]["b"] == {"median": 1.5, "min": 1.5, "max": 1.5, "n": 1, "unit": ""}
    assert known["absolutes"]["x"]["unit"] == "ms"
    assert known["scenarios"]["two"]["machine"]["cpus"] > 0
    assert set(known["versions"]) >= {"commit", "dirty", "python", "ray", "llama_cpp_system_info"}


def test_two_scenarios_may_not_share_a_name(tmp_path: Path) -> None:
    report.start("one", tmp_path).publish(ratios={"a": 1.0}, absolutes={})
    with pytest.raises(ValueError, match="'two' publishes ratios of another one: \\['a'\\]"):
        report.start("two", tmp_path).publish(ratios={"a": 2.0}, absolutes={})
    assert report.read(tmp_path)["ratios"] == {"a": 1.0}


def test_a_report_of_a_newer_carril_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest.json").write_text('{"schema_version": 99}', encoding="utf-8")
    with pytest.raises(ValueError, match="schema version 99"):
        report.start("one", tmp_path).publish(ratios={}, absolutes={})


def test_page_tells_met_from_missed_and_where_the_peer_is_ahead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.start("engine", tmp_path).publish(
        ratios={"decode_vs_batched_bench_b1": 0.97, "max_itl_vs_llama_server": 0.5, "own": 1.0},
        absolutes={"tokens_per_s": spread([3.0, 4.0], "tokens/s")},
        notes={"threads": 2},
    )
    text = (tmp_path / "latest.md").read_text(encoding="utf-8")
    assert "| `decode_vs_batched_bench_b1` | 0.97 | 0.97 | 0.97 | 1 | ≥ 0.95 | met |" in text
    assert "| `max_itl_vs_llama_server` | 0.5 | 0.5 | 0.5 | 1 | ≤ 0.25 | **missed** |" in text
    assert "Where a peer is ahead: `decode_vs_batched_bench_b1` (0.97)." in text
    assert "Not measured: `cold_c16_vs_llama_server`" in text
    assert "- threads: 2" in capsys.readouterr().out


def test_plot_is_an_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.start("engine", tmp_path).publish(
        ratios={name: Spread(1, 0.9, 1.1, 3) for name in TARGETS}, absolutes={}
    )
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "latest.json",
        "latest.lock",
        "latest.md",
        "ratios.png",
    ]


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_rounds_must_be_a_positive_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRIL_BENCH_ROUNDS", text)
    with pytest.raises(ValueError, match="CARRIL_BENCH_ROUNDS"):
        report.rounds()
