"""The registry in a real MLflow on SQLite: versions, aliases, tags, runs, and its server."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from experiments.registry import Alias, Registry
from tests.unit.training.registry.builders import INTENT_ACCURACY, gate_report, registered
from training.registry import promote, rollback
from training.registry.mirror import mirror
from training.registry.mlflow_adapter import MlflowStore, default_uri
from training.registry.server import server_command
from training.tracking import start_run

pytest.importorskip("mlflow", reason="needs the extra 'tracking': make tracking")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CARRIL_HOME whose store is made once: the tables take seconds."""
    home = tmp_path_factory.mktemp("home")
    MlflowStore(home)
    return home


@pytest.fixture
def registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("CARRIL_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CARRIL_TRACKING", raising=False)
    return Registry(home / "registry")


def client(home: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(home), registry_uri=default_uri(home))


def aliases(home: Path, name: str) -> dict[str, str]:
    """Return carril's version of each alias that MLflow has."""
    found = client(home)
    return {
        alias: found.get_model_version(name, number).tags["carril.version"]
        for alias, number in found.get_registered_model(name).aliases.items()
    }


def test_register_promote_and_roll_back_show_in_mlflow(
    registry: Registry, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    v1 = registered(registry, tmp_path, "1.0.0")
    promote("okla", registry=registry, gate=gate_report(tmp_path / "g1.json", v1))
    assert mirror(registry, "okla", say=said.append), said
    assert aliases(home, "okla") == {"champion": "1.0.0", "production": "1.0.0"}

    with start_run("finetune", "okla-v2", params={"lr": 0.001}, home=home) as run:
        assert run.run_id is not None
    v2 = registered(registry, tmp_path, "2.0.0", lineage={"run.id": run.run_id})
    mirror(registry, "okla")
    assert aliases(home, "okla")["candidate"] == "2.0.0"
    report = gate_report(tmp_path / "g2.json", v2, v1)
    promote("okla@2.0.0", registry=registry, gate=report, alias=Alias.CHALLENGER)
    mirror(registry, "okla")
    assert aliases(home, "okla") == {
        "champion": "1.0.0",
        "production": "1.0.0",
        "challenger": "2.0.0",
    }
    promote("okla@2.0.0", registry=registry)
    mirror(registry, "okla")
    assert aliases(home, "okla") == {
        "champion": "2.0.0",
        "production": "2.0.0",
        "previous_champion": "1.0.0",
    }
    rollback("okla", registry=registry, reason="precios")
    mirror(registry, "okla")
    assert aliases(home, "okla") == {"champion": "1.0.0", "production": "1.0.0"}

    # What people add in MLflow is theirs, and a second look changes nothing.
    client(home).set_registered_model_alias("okla", "favourite", "2")
    before = client(home).search_model_versions("name = 'okla'")
    mirror(registry, "okla")
    assert aliases(home, "okla")["favourite"] == "2.0.0"
    after = client(home).search_model_versions("name = 'okla'")
    assert [v.last_updated_timestamp for v in after] == [v.last_updated_timestamp for v in before]

    store = client(home)
    (found,) = store.search_model_versions(f"tags.`artifact.sha256` = '{v2.sha256}'")
    assert found.run_id == run.run_id
    assert found.source == f"models:/{found.tags['model_id']}"
    assert {key: found.tags[key] for key in ("state", "lifecycle", "gate.verdict")} == {
        "state": "archived",
        "lifecycle": "retired",
        "gate.verdict": "PASS",
    }
    assert found.tags["dataset.sha256"] == v2.dataset_sha256
    assert found.tags["git.commit"] == v2.code_commit
    logged = store.get_logged_model(found.tags["model_id"])
    assert logged.tags["artifact.uri"] == registry.blob(v2.sha256).as_uri()
    assert {m.key: m.value for m in logged.metrics}["intent_accuracy"] == INTENT_ACCURACY
    tracked = store.get_run(run.run_id)
    assert tracked.inputs.dataset_inputs[0].dataset.digest == v2.dataset_sha256[:36]
    cards = store.list_artifacts(run.run_id, "models/2.0.0")
    assert [card.path for card in cards] == ["models/2.0.0/model_card.md"]
    assert len(store.search_model_versions("name = 'okla'")) == 2
    assert list(tmp_path.glob("mlruns*")) == []  # everything is under the home


def test_a_version_that_mlflow_missed_is_added_by_the_next_command(
    registry: Registry, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.chdir(tmp_path)
    registered(registry, tmp_path, "1.0.0", name="late")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert not mirror(registry, "late", say=said.append)
    assert "not shown in MLflow: MLflow at http://127.0.0.1:9 failed" in said[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert mirror(registry, "late", say=said.append)
    assert aliases(home, "late") == {"candidate": "1.0.0"}

    # Another database, without a server: its artefacts are under the home too, not where we are.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/other.db")
    assert mirror(registry, "late", say=said.append)
    assert not (tmp_path / "mlruns").exists()


def test_a_tracked_run_holds_what_a_job_did(registry: Registry, home: Path, tmp_path: Path) -> None:
    environ = {
        "CARRIL_HOME": str(home),
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "finetune-7"}}',
    }
    lock = tmp_path / "run.lock.json"
    lock.write_text("{}", encoding="utf-8")
    run = start_run("job", "one", tags={"seed": "42"}, environ=environ)

    def job() -> None:
        with run:
            run.log_metrics({"loss": 0.5}, step=1)
            run.log_metrics({"loss": 0.25, "tokens/s": 1000}, step=2)
            run.log_artifact(lock)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        job()
    assert run.n_failures == 0
    found = client(home).get_run(run.run_id)
    assert found.info.status == "FAILED"
    assert (found.data.tags["ray.job_id"], found.data.tags["seed"]) == ("finetune-7", "42")
    history = client(home).get_metric_history(run.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.25)]
    assert [a.path for a in client(home).list_artifacts(run.run_id)] == ["run.lock.json"]


def test_a_job_goes_on_with_the_run_of_its_submitter(registry: Registry, home: Path) -> None:
    with start_run("job", "submitted", home=home) as submitted:
        pass
    environ = {"CARRIL_HOME": str(home), "MLFLOW_RUN_ID": str(submitted.run_id)}
    with start_run("job", "ignored", params={"lr": 0.1}, environ=environ) as run:
        assert run.run_id == submitted.run_id
        assert client(home).get_run(run.run_id).info.status == "RUNNING"
    assert client(home).get_run(run.run_id).data.params == {"lr": "0.1"}


def test_a_resumed_job_with_other_parameters_keeps_the_first_ones_and_is_tracked(
    registry: Registry, home: Path
) -> None:
    with start_run("job", "resumed", params={"lr": 0.1}, home=home) as first:
        pass
    environ = {"CARRIL_HOME": str(home), "MLFLOW_RUN_ID": str(first.run_id)}
    with start_run("job", "resumed", params={"lr": 0.2}, environ=environ) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    found = client(home).get_run(run.run_id)
    assert (run.n_failures, found.data.params, found.data.metrics) == (
        1,
        {"lr": "0.1"},
        {"loss": 1.0},
    )


def test_a_run_that_is_not_there_is_said_at_once(registry: Registry, home: Path) -> None:
    said: list[str] = []
    environ = {"CARRIL_HOME": str(home), "MLFLOW_RUN_ID": "0" * 32}
    assert start_run("job", "lost", environ=environ, say=said.append).run_id is None
    assert f"Run with id={'0' * 32} not found" in said[0]


def test_a_store_that_breaks_meanwhile_does_not_end_the_job(
    registry: Registry, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = start_run("job", "unlucky", home=home)
    run.run_id = "0" * 32
    for step in range(5):
        run.log_metrics({"loss": 1.0}, step=step)
    run.end()
    assert run.n_failures == 6
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 2
    assert "is not tracked completely: MLflow at sqlite:" in warnings[0]
    assert "is not tracked any further" in warnings[1]


@pytest.fixture
def server(registry: Registry, home: Path) -> Iterator[str]:
    """MLflow's server, as `carril models ui` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = server_command(home, port=port)
    process = subprocess.Popen(
        command.arguments,
        env=command.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while not _answers(url):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_server_shows_the_registry(
    registry: Registry, home: Path, tmp_path: Path, server: str
) -> None:
    registered(registry, tmp_path, "1.0.0", name="shown")
    mirror(registry, "shown")
    answer = httpx.get(
        f"{server}/api/2.0/mlflow/registered-models/get",
        params={"name": "shown"},
        timeout=10,
        trust_env=False,
    )
    model = json.loads(answer.text)["registered_model"]
    assert [alias["alias"] for alias in model["aliases"]] == ["candidate"]
