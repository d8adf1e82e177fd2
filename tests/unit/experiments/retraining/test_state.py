"""What the rules are told, from the files that other commands write."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from experiments.registry import ModelVersion, Registry
from experiments.retraining.errors import BadRecord, UnknownModel
from experiments.retraining.state import gather
from tests.unit.experiments.gate.runs import golden, write_run
from tests.unit.training.registry.builders import gate_report, registered
from training.registry import promote


@pytest.fixture
def champion(tmp_path: Path) -> ModelVersion:
    """The model in production of the home, which is `tmp_path`."""
    registry = Registry(tmp_path / "registry")
    version = registered(registry, tmp_path / "models", "1.0.0")
    promote("okla", registry=registry, gate=gate_report(tmp_path / "g.json", version), reason="r")
    return version


def _evaluation(
    home: Path, day: int, accuracy: float, sha256: str, *, suite: str = "c" * 64
) -> None:
    folder = write_run(
        home / "evaluations" / f"run-{day}", golden([True] * 5), sha256=sha256, suite_sha256=suite
    )
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report["created_at"] = f"2026-05-{day:02d}T00:00:00+00:00"
    report["dimensions"] = [
        {
            "name": "intent_accuracy",
            "value": accuracy,
            "n": 5,
            "threshold": 0.7,
            "direction": "at_least",
            "passed": True,
        }
    ]
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


def test_the_newest_evaluation_counts_and_is_compared_with_the_first_on_its_suites(
    tmp_path: Path, champion: ModelVersion
) -> None:
    _evaluation(tmp_path, 1, 0.99, champion.sha256, suite="d" * 64)
    _evaluation(tmp_path, 2, 0.95, champion.sha256)
    _evaluation(tmp_path, 3, 0.93, champion.sha256)
    _evaluation(tmp_path, 4, 0.88, champion.sha256)
    _evaluation(tmp_path, 5, 0.20, "f" * 64)
    state = gather(tmp_path)
    assert (state.accuracy, state.first_accuracy) == (0.88, 0.95)
    assert (state.model, state.version) == ("okla", "1.0.0")
    assert state.trained_at == champion.created_at


def test_one_evaluation_says_nothing_about_a_drop(tmp_path: Path, champion: ModelVersion) -> None:
    _evaluation(tmp_path, 2, 0.95, champion.sha256)
    state = gather(tmp_path)
    assert (state.accuracy, state.first_accuracy) == (0.95, None)


def test_an_evaluation_that_cannot_be_read_is_passed_over(
    tmp_path: Path, champion: ModelVersion
) -> None:
    _evaluation(tmp_path, 2, 0.95, champion.sha256)
    _evaluation(tmp_path, 3, 0.10, champion.sha256)
    (tmp_path / "evaluations" / "run-3" / "report.json").write_text("{", encoding="utf-8")
    assert gather(tmp_path).accuracy == 0.95


def test_several_models_need_a_name(tmp_path: Path, champion: ModelVersion) -> None:
    registered(Registry(tmp_path / "registry"), tmp_path / "other", "1.0.0", name="dealer")
    with pytest.raises(UnknownModel, match=r"several models are registered: \['dealer', 'okla'\]"):
        gather(tmp_path)
    assert gather(tmp_path, model="okla").version == "1.0.0"
    assert gather(tmp_path, model="dealer").version is None


@pytest.mark.parametrize(
    ("content", "level"),
    [
        ('{"level": "Warning"}', "warning"),
        ('{"level": "ok"}', "ok"),
        ('{"level": "insufficient_data"}', None),
    ],
)
def test_a_drift_report_is_read_where_it_is_said_to_be(
    tmp_path: Path, content: str, level: str | None
) -> None:
    path = tmp_path / "d.json"
    path.write_text(content, encoding="utf-8")
    assert gather(tmp_path).drift is None
    assert gather(tmp_path, drift=path).drift == level


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"level": "terrible"}'])
def test_what_is_no_drift_report_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadRecord, match=r"d\.json"):
        gather(tmp_path, drift=path)
    with pytest.raises(BadRecord, match=r"nowhere\.json"):
        gather(tmp_path, drift=tmp_path / "nowhere.json")


def test_a_broken_dataset_manifest_is_told(tmp_path: Path) -> None:
    path = tmp_path / "retrain" / "datasets" / "x" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(BadRecord, match=r"manifest\.json"):
        gather(tmp_path)


def test_the_age_is_that_of_the_training_not_of_the_registration(
    champion: ModelVersion,
) -> None:
    assert isinstance(champion.created_at, datetime)
    assert champion.created_at <= champion.registered_at
