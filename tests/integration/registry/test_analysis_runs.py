"""An analysis of an experiment as a run in a real MLflow."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from tests.unit.experiments.analysis.sessions import traffic, write
from training.registry.mlflow_adapter import default_uri

pytest.importorskip("mlflow", reason="needs the extra 'tracking': make tracking")


def test_a_report_leaves_a_run_with_verdict_effects_page_and_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CARRIL_TRACKING", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").mkdir()
    write(tmp_path / "events" / "events.db", traffic(300, salt="exp"))
    assert run(["exp", "report", "exp", "--control", "stable", "--out", "r.html"]) == 0
    client: Any = MlflowClient(tracking_uri=default_uri(tmp_path))
    place = client.get_experiment_by_name("experiments")
    (found,) = client.search_runs([place.experiment_id])
    assert found.data.tags["carril.verdict"] == "NO_CLEAR_WINNER"
    assert found.data.metrics["units.control"] + found.data.metrics["units.treatment"] == 300
    assert "latency.intention_to_treat.effect" in found.data.metrics
    evidence = client.download_artifacts(found.info.run_id, "evidence.json", str(tmp_path))
    record = json.loads(Path(evidence).read_text(encoding="utf-8"))
    assert record["evidence"]["events_sha256"] == found.data.tags["carril.events_sha256"]
    page = client.download_artifacts(found.info.run_id, "report.html", str(tmp_path))
    assert Path(page).read_bytes() == (tmp_path / "r.html").read_bytes()
