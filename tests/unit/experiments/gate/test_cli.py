"""`carril eval gate` as a pipeline calls it."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.cli.main import run
from experiments.registry.gate_report import parse_gate_report
from tests.unit.experiments.gate.runs import SHA_A, SHA_B, golden, related, write_run

_N = 1_500


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    return write_run(tmp_path / "champion", golden(_base()), sha256=SHA_B, version="1.0.0")


def _base() -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.random.default_rng(1).random(_N) < 0.90


def _candidate(folder: Path, difference: float, **options: object) -> Path:
    answers = related(_base(), difference, 0.09, np.random.default_rng(2))
    return write_run(folder / "candidate", golden(answers), **options)  # type: ignore[arg-type]


def test_a_better_model_passes_and_the_registry_can_read_why(
    tmp_path: Path, champion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = _candidate(tmp_path, 0.05)
    code = run(["eval", "gate", "--candidate", str(candidate), "--champion", str(champion), "--ci"])
    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("PASS  okla-chat 2.0.0\n")
    report = parse_gate_report((candidate / "gate.json").read_bytes(), where="gate.json")
    assert report.verdict == "PASS"
    assert report.candidate.sha256 == SHA_A
    assert report.champion is not None
    assert report.champion.sha256 == SHA_B
    assert (candidate / "gate.md").read_text(encoding="utf-8").startswith("# Gate: PASS\n")


def test_a_run_with_another_prior_is_compared_and_named(
    tmp_path: Path, champion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = _candidate(tmp_path, 0.05, prior="d" * 64)
    arguments = ["eval", "gate", "--candidate", str(candidate), "--champion", str(champion)]
    assert run([*arguments, "--ci"]) == 0
    note = "  the candidate was measured with the intent prior dddd"
    assert note in capsys.readouterr().out
    parse_gate_report((candidate / "gate.json").read_bytes(), where="gate.json")


@pytest.mark.parametrize(
    ("out", "written"),
    [("a/verdict.json", "a/verdict.json"), (".", "gate.json"), ("new", "new/gate.json")],
    ids=["file", "folder", "new folder"],
)
def test_the_report_goes_where_it_is_wanted(tmp_path: Path, out: str, written: str) -> None:
    candidate = write_run(tmp_path / "candidate", golden([True] * 40))
    run(["eval", "gate", "--candidate", str(candidate), "--out", str(tmp_path / out)])
    report = tmp_path / written
    assert parse_gate_report(report.read_bytes(), where=written).verdict == "INCONCLUSIVE"
    assert report.with_suffix(".md").is_file()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("out", "code"), [("x.md", 2), ("candidate/report.json/x.json", 3)], ids=["Markdown", "no room"]
)
def test_a_report_that_cannot_be_written_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, code: int
) -> None:
    candidate = write_run(tmp_path / "candidate", golden([True] * 40))
    before = sorted(tmp_path.rglob("*"))
    arguments = ["eval", "gate", "--candidate", str(candidate), "--out", str(tmp_path / out)]
    assert run(arguments) == code
    assert out.split("/")[0] in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_worse_model_fails_with_exit_1(
    tmp_path: Path, champion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = _candidate(tmp_path, -0.03)
    code = run(["eval", "gate", "--candidate", str(candidate), "--champion", str(champion), "--ci"])
    assert code == 1
    assert "FAIL primary intent_accuracy: -" in capsys.readouterr().out


def test_too_few_items_are_inconclusive_with_exit_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = write_run(tmp_path / "candidate", golden([True] * 40))
    assert run(["eval", "gate", "--candidate", str(candidate), "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in document["checks"]}
    # 0 of 40: the exact bound is 1 - 0.05^(1/40) = 7.2 %; ln(0.05) / ln(0.99) = 298.07.
    assert checks["grounding_errors"]["upper"] == pytest.approx(1 - 0.05 ** (1 / 40))
    assert checks["grounding_errors"]["n_needed"] == 299
    assert checks["intent_accuracy"]["outcome"] == "PASS"
    assert checks["latency_p95_s"]["n_needed"] == 59
    assert document["champion"] is None


def test_floors_alone_decide_without_a_champion(tmp_path: Path) -> None:
    candidate = write_run(tmp_path / "candidate", golden([True] * _N))
    assert run(["eval", "gate", "--candidate", str(candidate)]) == 0


def test_one_violation_fails_whatever_the_bound_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = golden([True] * _N)
    items[3]["violation"] = True
    candidate = write_run(tmp_path / "candidate", items)
    assert run(["eval", "gate", "--candidate", str(candidate), "--ci"]) == 1
    assert "FAIL floor violations: 1 of 1500" in capsys.readouterr().out


def test_a_failed_request_counts_as_a_wrong_and_invalid_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = golden([True] * _N)
    for item in items[:60]:
        item["error"] = "timeout"
    candidate = write_run(tmp_path / "candidate", items)
    run(["eval", "gate", "--candidate", str(candidate), "--json"])
    checks = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["intent_accuracy"]["value"] == pytest.approx(1 - 60 / _N)
    assert checks["json_validity"]["outcome"] == "FAIL"


def test_a_floor_that_no_item_measures_is_never_passed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [item | {"grounding_error": None} for item in golden([True] * _N)]
    candidate = write_run(tmp_path / "candidate", items)
    assert run(["eval", "gate", "--candidate", str(candidate), "--ci"]) == 5
    assert "INCONCLUSIVE floor grounding_errors: no item" in capsys.readouterr().out


def test_a_policy_file_changes_a_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = write_run(tmp_path / "candidate", golden([True] * 40))
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "floors: {grounding_errors: 0.2, violations: 0.2, pii_echo: 0.2, json_validity: 0.9,"
        " out_of_scope_recall: 0.5, out_of_scope_false_alarms: 0.2, latency_p95_s: null}",
        encoding="utf-8",
    )
    assert run(["eval", "gate", "--candidate", str(candidate), "--policy", str(policy)]) == 0
    policy.write_text("floors: {grounding: 0.2}", encoding="utf-8")
    assert run(["eval", "gate", "--candidate", str(candidate), "--policy", str(policy)]) == 2
    assert "floors.grounding: Extra inputs" in capsys.readouterr().err


def test_non_inferiority_needs_a_reason(
    tmp_path: Path, champion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = _candidate(tmp_path, 0.0)
    arguments = ["eval", "gate", "--candidate", str(candidate), "--champion", str(champion)]
    arguments += ["--hypothesis", "non-inferiority"]
    assert run(arguments) == 2
    assert "needs a reason" in capsys.readouterr().err
    assert run([*arguments, "--reason", "half the size"]) == 0
    document = json.loads((candidate / "gate.json").read_text(encoding="utf-8"))
    assert document["policy"]["reason"] == "half the size"
    assert "half the size" in document["reasons"][0]


def test_the_job_summary_of_a_ci_service_gets_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    candidate = write_run(tmp_path / "candidate", golden([True] * _N))
    run(["eval", "gate", "--candidate", str(candidate), "--ci"])
    assert "| intent_accuracy | PASS |" in summary.read_text(encoding="utf-8")


def test_the_same_evidence_gives_the_same_numbers(tmp_path: Path, champion: Path) -> None:
    candidate = _candidate(tmp_path, 0.02)
    arguments = ["eval", "gate", "--candidate", str(candidate), "--champion", str(champion)]
    documents = []
    for name in ("first.json", "second.json"):
        run([*arguments, "--out", str(tmp_path / name)])
        documents.append(json.loads((tmp_path / name).read_text(encoding="utf-8")))
    first, second = documents
    assert first["checks"] == second["checks"]
    assert first["reasons"] == second["reasons"]
