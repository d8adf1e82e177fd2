"""Evidence that the gate refuses to judge, each with its name and without a report."""

import hashlib
from pathlib import Path

import pytest

from cluster.cli.main import run
from tests.unit.experiments.gate.runs import SHA_B, golden, write_run

_CORRECT = [True] * 60


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    return write_run(tmp_path / "champion", golden(_CORRECT), sha256=SHA_B)


def _refused(candidate: Path, capsys: pytest.CaptureFixture[str], code: int, *options: str) -> str:
    assert run(["eval", "gate", "--candidate", str(candidate), *options, "--ci"]) == code
    assert not (candidate / "gate.json").exists()
    return capsys.readouterr().err


def test_other_suites(tmp_path: Path, champion: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = write_run(tmp_path / "c", golden(_CORRECT), suite_sha256="e" * 64)
    err = _refused(candidate, capsys, 1, "--champion", str(champion))
    assert "different suites: golden" in err


def test_other_items_under_the_same_suite(
    tmp_path: Path, champion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = golden(_CORRECT)
    items[0]["id"] = "golden-999999"
    candidate = write_run(tmp_path / "c", items)
    err = _refused(candidate, capsys, 1, "--champion", str(champion))
    assert "1 items (golden-000000) answered by the champion only" in err


def test_another_right_answer_to_the_same_item(
    tmp_path: Path, champion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = golden(_CORRECT)
    items[0]["intent"] = "chercha"
    candidate = write_run(tmp_path / "c", items)
    err = _refused(candidate, capsys, 1, "--champion", str(champion))
    assert "'golden-000000'" in err
    assert "chercha" in err


def test_missing_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = write_run(tmp_path / "c", golden(_CORRECT), n=61)
    assert "has 61 items, the candidate has predictions of 60" in _refused(candidate, capsys, 1)


def test_a_suite_that_the_report_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = golden(_CORRECT)
    items[0]["suite"] = "secret"
    candidate = write_run(tmp_path / "c", items, n=59)
    assert "suites not in its report: ['secret']" in _refused(candidate, capsys, 1)


def test_duplicate_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = golden(_CORRECT)
    candidate = write_run(tmp_path / "c", [*items, items[0]])
    err = _refused(candidate, capsys, 2)
    assert "predictions.jsonl:61" in err
    assert "'golden-000000' is there twice" in err


def test_predictions_changed_after_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = write_run(tmp_path / "c", golden(_CORRECT))
    path = candidate / "predictions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("0.9", "0.8"), encoding="utf-8")
    assert "its report says" in _refused(candidate, capsys, 2)


def test_a_broken_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = golden(_CORRECT)
    items[7]["natural"] = 3
    candidate = write_run(tmp_path / "c", items)
    err = _refused(candidate, capsys, 2)
    assert "predictions.jsonl:8" in err
    assert "natural" in err


def test_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = write_run(tmp_path / "c", golden(_CORRECT), kind="baseline", sha256=None)
    assert "'okla-chat' is a baseline" in _refused(candidate, capsys, 1)


@pytest.mark.parametrize("kind", ["served", "gguf"])
def test_a_model_that_nobody_can_identify(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = write_run(tmp_path / "c", golden(_CORRECT), kind=kind, sha256=None)
    assert "has no SHA-256" in _refused(candidate, capsys, 1)


def test_a_file_that_changed_after_its_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF as evaluated")
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    candidate = write_run(tmp_path / "c", golden(_CORRECT), sha256=sha256)
    assert run(["eval", "gate", "--candidate", str(candidate), "--model", str(model)]) == 5
    (candidate / "gate.json").unlink()
    capsys.readouterr()
    model.write_bytes(b"GGUF after a bit flip")
    err = _refused(candidate, capsys, 1, "--model", str(model))
    assert f"the file that was evaluated had {sha256}" in err


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in _refused(tmp_path / "nowhere", capsys, 2)
