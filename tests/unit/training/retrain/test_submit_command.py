"""`carril retrain submit` against Ray's side in memory."""

import json
from pathlib import Path

import pytest

from cluster.cli.main import run
from cluster.connection import Connection
from experiments.jobs.code_state import CodeState
from experiments.retraining.history import read_history
from tests.unit.cluster.test_jobs import TINY, JobsInMemory
from tests.unit.training.retrain.batches import item
from training.config import load_config
from training.retrain.examples import Example
from training.retrain.prepare import PreparePolicy, RetrainManifest, prepare


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> JobsInMemory:
    """A cluster that takes jobs and runs none."""
    ray = JobsInMemory()
    nearby = Connection(
        dashboard_url="http://127.0.0.1:9", http_url="http://127.0.0.1:9", token=None, record=None
    )
    monkeypatch.setattr("cluster.jobs.api.JobsApi", lambda *_, **__: ray)
    monkeypatch.setattr("cluster.connection.resolve", lambda **_: nearby)
    monkeypatch.setattr("cluster.jobs.submission.code_state", lambda: CodeState(version="1"))
    return ray


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CARRIL_TRACKING", "off")
    return tmp_path / "home"


@pytest.fixture
def manifest(home: Path, unseen: list[Example], small_base: Path) -> RetrainManifest:
    """Of a dataset that waits under the home."""
    approved = [item(number, example) for number, example in enumerate(unseen[::40])]
    return prepare(
        approved,
        small_base,
        home / "retrain" / "datasets" / "20260501T000000Z",
        PreparePolicy(all_original=True),
    ).manifest


def _check(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run(["retrain", "check", "--json"]) == 0
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def test_a_new_dataset_is_due_until_it_is_submitted_once(
    ray: JobsInMemory,
    home: Path,
    manifest: RetrainManifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = _check(capsys)
    assert before["due"]
    assert before["reasons"] == ["dataset 20260501T000000Z was not trained on yet"]

    assert run(["retrain", "submit", "--config", str(TINY), "--by", "ana"]) == 0
    assert run(["retrain", "submit", "--config", str(TINY), "--by", "ana"]) == 0

    (job,) = ray.submitted
    (entry,) = read_history(home)
    assert (entry.by, entry.submission_id) == ("ana", job.submission_id)
    assert entry.dataset_sha256 == manifest.sha256
    config = load_config(home / "retrain" / "configs" / entry.config)
    assert config.dataset is not None
    assert config.dataset.sha256 == manifest.sha256
    assert str(home / "retrain" / "configs" / entry.config) in job.entrypoint
    after = _check(capsys)
    assert not after["due"]
    assert after["cooldown_until"] is not None
    assert after["reasons"] == []


def test_a_dataset_that_was_edited_is_not_submitted(
    ray: JobsInMemory,
    home: Path,
    manifest: RetrainManifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = home / "retrain" / "datasets" / "20260501T000000Z" / "train.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")
    assert run(["retrain", "submit", "--config", str(TINY)]) == 2
    assert "its manifest says" in capsys.readouterr().err
    assert ray.submitted == []
    assert read_history(home) == []


def test_a_cluster_that_refuses_begins_no_cool_down(
    ray: JobsInMemory, home: Path, manifest: RetrainManifest
) -> None:
    ray.trainers = 0
    assert run(["retrain", "submit", "--config", str(TINY)]) == 3
    assert read_history(home) == []
