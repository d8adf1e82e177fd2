"""What every command prints in the same way."""

import pytest

from experiments.terminal import print_table


def test_a_table_in_a_log_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    columns = [f"column_{n}_[x]" for n in range(8)]

    print_table("A table of [things]", columns, [["satisfaction"] * 8])

    shown = capsys.readouterr().out
    assert "A table of [things]" in shown
    assert all(column in shown for column in columns)
    assert shown.count("satisfaction") == 8


def test_a_table_in_a_narrow_window_folds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    print_table("", ["a", "b"], [["x" * 60, "y"]])

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40
