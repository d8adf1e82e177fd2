from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.readme import BEGIN, END, README, with_results
from tests.benchmarks.targets import TARGETS


def test_figures_replace_what_stood_between_the_marks(tmp_path: Path) -> None:
    report.start("engine", tmp_path).publish(
        ratios={"decode_vs_batched_bench_b1": 0.97}, absolutes={}
    )
    known = report.read(tmp_path)
    once = with_results(f"before\n{BEGIN}\nold figures\n{END}\nafter\n", known)
    assert once.startswith(f"before\n{BEGIN}\n")
    assert once.endswith(f"{END}\nafter\n")
    assert "| `decode_vs_batched_bench_b1` | 0.97 |" in once
    assert "old figures" not in once
    assert with_results(once, known) == once


def test_nothing_is_written_before_anything_was_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `make bench` first"):
        with_results(f"{BEGIN}{END}", report.read(tmp_path))


def test_the_readme_has_its_marks_and_names_every_target() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    for name, target in TARGETS.items():
        assert f"| `{name}` | {target.text} |" in text
