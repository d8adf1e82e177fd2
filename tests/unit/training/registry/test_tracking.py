"""Tracking without MLflow: the same calls, one notice."""

import importlib.util
from pathlib import Path

import pytest

from experiments.registry import Registry
from training.registry.mirror import mirror, why_not
from training.registry.mlflow_adapter import default_uri
from training.registry.server import server_command
from training.tracking import job_tags, start_run


def test_switched_off_it_says_so_once_and_does_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with start_run(
        "job", "one", home=tmp_path, environ={"CARRIL_TRACKING": "off"}, say=said.append
    ) as run:
        run.log_params({"lr": 1})
        run.log_metrics({"loss": 1.0}, step=1)
        run.set_tags({"a": "b"})
        run.log_artifact(tmp_path)
    assert said == ["this run is not tracked: CARRIL_TRACKING=off"]
    assert (run.run_id, run.uri, run.n_failures) == (None, None, 0)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_notice_names_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    said: list[str] = []
    assert start_run("job", "one", home=tmp_path, environ={}, say=said.append).run_id is None
    (line,) = said
    assert "pip install 'carril[tracking]'" in line
    assert not mirror(Registry(tmp_path / "registry"), say=said.append)
    assert "pip install 'carril[tracking]'" in said[1]


@pytest.mark.parametrize("raw", ["", "{", "[]", "{}", '{"metadata": {}}'])
def test_outside_a_ray_job_there_is_no_link(raw: str) -> None:
    assert job_tags({"RAY_JOB_CONFIG_JSON_ENV_VAR": raw}) == {}


def test_tracking_is_on_unless_something_speaks_against_it() -> None:
    assert why_not({"CARRIL_TRACKING": "on"}) == why_not({})


def test_the_server_listens_on_this_machine_only_and_reports_to_nobody(tmp_path: Path) -> None:
    command = server_command(tmp_path, port=5001, base={"PATH": "/bin"})
    line = " ".join(command.arguments)
    assert f"--backend-store-uri {default_uri(tmp_path)}" in line
    assert "--host 127.0.0.1 --port 5001 --workers 1" in line
    assert command.environment == {
        "PATH": "/bin",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
