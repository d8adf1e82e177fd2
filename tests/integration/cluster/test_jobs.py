"""`carril jobs` and plain `ray job submit` on a real cluster, with real trainings."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.ray_commands import install
from experiments.jobs.record import JobFolder, JobState
from tests.integration.cluster.conftest import ROOT, Sandbox, tiny_config
from training.manifest import verify_model

TINY = ROOT / "training" / "configs" / "tiny.yaml"
DEADLINE_S = 280.0


@pytest.fixture(scope="module")
def box(new_sandbox: Callable[[], Sandbox]) -> Iterator[Sandbox]:
    """A cluster of its own: what ran on it must outlive it."""
    box = new_sandbox()
    box.environment["CARRIL_TRACKING"] = "off"
    try:
        result = box.up(box.write(tiny_config()), "--no-haproxy")
        assert result.returncode == 0, result.stderr
        yield box
    finally:
        box.carril("down", "--now")


def configuration(box: Sandbox, name: str, **optim: Any) -> Path:
    raw = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    raw["name"] = name
    raw["optim"] |= optim
    path = box.directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def submit(box: Sandbox, config: Path, *options: str) -> dict[str, Any]:
    result = box.carril("jobs", "submit", "finetune", "--config", str(config), "--json", *options)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def status(box: Sandbox, job: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(box.carril("jobs", "status", job, "--json").stdout)
    return document


def folder(box: Sandbox, job: str) -> JobFolder:
    return JobFolder(box.directory / "var", job)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"timed out: {what}"
        time.sleep(0.2)


def wait_for_line(box: Sandbox, job: str, text: str) -> None:
    log = folder(box, job).log_path
    wait_until(lambda: log.exists() and text in log.read_text(encoding="utf-8"), f"{job}: {text}")


@pytest.mark.timeout(900)
def test_jobs_run_one_at_a_time_survive_a_kill_and_a_stop_and_outlive_the_cluster(
    box: Sandbox,
) -> None:
    first_config = configuration(box, "first")
    first = submit(box, first_config)["submission_id"]
    second = submit(box, configuration(box, "second", n_steps=100_000))
    assert second["waits_for"] == first
    again = submit(box, first_config)
    assert (again["submission_id"], again["new"]) == (first, False)

    # Killed: named as such, nothing finished, and the next in the queue runs.
    wait_for_line(box, first, "step 20/")
    assert status(box, second["submission_id"])["state"] == "submitted"
    record = folder(box, first).read()
    assert record is not None
    assert record.pid is not None
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: status(box, first)["state"] == "killed", "seen as killed")
    assert not list(Path(str(record.out)).glob("*.gguf"))

    # Stopped: with a checkpoint, exit code 130, and the trainer is free again.
    wait_for_line(box, second["submission_id"], "step 20/")
    stopped = box.carril("jobs", "stop", second["submission_id"], "--json")
    assert json.loads(stopped.stdout)["state"] == "stopped", stopped.stderr
    assert json.loads(stopped.stdout)["exit_code"] == 130
    assert (Path(second["out"]) / "checkpoint.pt").exists()

    # Submitted again, the killed one goes on where its checkpoint is, under an id of its own.
    followed = box.carril(
        "jobs", "submit", "finetune", "--config", str(first_config), "--follow", "--json"
    )
    assert followed.returncode == 0, followed.stderr
    resumed = json.loads(followed.stdout)
    assert resumed["submission_id"] == f"{first}-2"
    assert resumed["out"] == record.out
    assert "going on from" in followed.stderr
    assert "step 60/60" in followed.stderr
    verify_model(Path(resumed["out"]) / "first.manifest.json")
    assert submit(box, first_config)["state"] == "succeeded"

    states = {job["submission_id"]: job["state"] for job in _listed(box)}
    assert states == {
        first: "killed",
        second["submission_id"]: "stopped",
        f"{first}-2": "succeeded",
    }
    assert box.carril("down", "--now").returncode == 0
    assert {job["submission_id"]: job["state"] for job in _listed(box)} == states
    logs = box.carril("jobs", "logs", f"{first}-2")
    assert "step 60/60" in logs.stdout
    for name in ("driver.log", "job.log", "report.json", "run.lock.json"):
        assert (folder(box, f"{first}-2").path / name).stat().st_size > 0
    assert box.up(box.write(tiny_config()), "--no-haproxy").returncode == 0


def _listed(box: Sandbox) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = json.loads(box.carril("jobs", "ls", "--json").stdout)
    return jobs


def test_a_full_disk_refuses_a_job_before_it_is_submitted(box: Sandbox) -> None:
    path = configuration(box, "huge")
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["data"]["n_train"] = 10**12
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    before = _listed(box)

    result = box.carril("jobs", "submit", "finetune", "--config", str(path))

    assert result.returncode == 3
    assert "disk: needs about 4,097," in result.stderr
    assert _listed(box) == before


def test_rays_own_command_runs_the_same_entry_point(box: Sandbox) -> None:
    scripts = box.directory / "bin"
    scripts.mkdir()
    install(scripts, python=sys.executable)
    broken = configuration(box, "broken", learning_rate=7)
    entry = ["python", "-m", "training.jobs.finetune", "--config", str(broken)]

    result = subprocess.run(
        [scripts / "ray", "job", "submit", "--submission-id", "by-hand", "--", *entry],
        env=box.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )

    assert result.returncode != 0
    job = status(box, "by-hand")
    assert job["state"] == JobState.FAILED
    assert job["exit_code"] == 2
    assert "optim.learning_rate: Input should be less than 1" in job["error"]


def test_an_unknown_job_is_a_usage_error_that_names_the_known_ones(box: Sandbox) -> None:
    result = box.carril("jobs", "status", "finetune-nope")

    assert result.returncode == 2
    assert "'finetune-nope' is no job" in result.stderr
