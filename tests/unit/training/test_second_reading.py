"""Phrases that two readers understand differently."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from training.data.catalog import Split, load_catalog, written_patterns
from training.data.second_reading import (
    ReadingsError,
    read_readings,
    reading_counts,
    second_readings,
    unread_phrases,
)


def test_the_phrases_of_the_suites_were_all_read_twice_with_one_result() -> None:
    measured = {p.text: p.intent for p in load_catalog().patterns if p.split is not Split.TRAIN}
    assert len(measured) > 8_000
    readings = second_readings()
    assert all(readings[intent, text] == intent for text, intent in measured.items())


def test_leaving_phrases_out_moves_none_from_one_split_to_another() -> None:
    written = {(p.text, p.family): p.split for p in written_patterns()}
    used = load_catalog().patterns
    assert all(written[p.text, p.family] is p.split for p in used)
    assert len(used) < len(written_patterns())


def test_readings_name_phrases_that_there_are() -> None:
    written = {(p.intent, p.text) for p in written_patterns()}
    assert not [phrase for phrase in second_readings() if phrase not in written]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("saludo\thola\n", r"readings.tsv:1: 2 fields instead of 3"),
        ("saludo\t?\thola\n" * 2, r"readings.tsv:2: 'hola' of saludo is there twice"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "readings.tsv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ReadingsError, match=message):
        read_readings(file)


def test_counts_and_unread_phrases() -> None:
    phrases = [("saludo", "klk"), ("saludo", "dime"), ("chercha", "jaja"), ("chercha", "uf")]
    readings = {
        ("saludo", "klk"): "saludo",
        ("saludo", "dime"): "?",
        ("chercha", "jaja"): "saludo",
    }
    assert reading_counts(phrases, readings) == (4, 3, 1, 1)
    assert unread_phrases(phrases, readings) == ["uf"]


def test_the_command_counts_by_split_and_refuses_unknown_ones() -> None:
    counted = CliRunner().invoke(app, ["data", "readings"])
    assert counted.exit_code == 0
    assert [line.split()[0] for line in counted.output.splitlines()] == list(Split)
    refused = CliRunner().invoke(app, ["data", "readings", "--unread", "tests"])
    assert refused.exit_code == 2
    assert "no split 'tests'" in refused.output
