"""A training that is killed, stopped and resumed ends with the very file of an undisturbed one."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from experiments.jobs.record import JobRecord, JobState, records
from training.config import load_config
from training.jobs import needs
from training.manifest import ModelManifest, verify_model

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "training" / "configs" / "tiny.yaml"
DEADLINE_S = 280.0


class Trainings:
    """Runs trainings of the tiny configuration under one CARRIL_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._environment = {
            **os.environ,
            "CARRIL_HOME": str(home),
            "CARRIL_TRACKING": "off",
            "PYTHONPATH": str(ROOT),
        }

    def start(
        self, *arguments: str, module: str = "training.jobs.finetune"
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, module: str = "training.jobs.finetune") -> str:
        process = self.start(*arguments, module=module)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        return out

    def train(self, out: Path) -> str:
        """Run `carril train`."""
        command = ("train", "--config", str(TINY), "--out", str(out), "--json")
        return self.run(*command, module="cluster.cli.main")

    def disturb(self, out: Path, *, at_step: int, number: signal.Signals, after_s: float) -> int:
        """Start or resume, send a signal soon after a step is reached; return the exit code."""
        process = self.start("--config", str(TINY), "--out", str(out), "--resume")
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"step {at_step}/"):
                time.sleep(after_s)  # anywhere in the steps that follow
                process.send_signal(number)
        return process.wait(timeout=DEADLINE_S)

    def records(self) -> list[JobRecord]:
        return list(records(self.home))

    def last_folder(self) -> Path:
        return self.home / "jobs" / self.records()[-1].submission_id


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(trainings: Trainings, work: Path) -> ModelManifest:
    document = json.loads(trainings.train(work))
    manifest = verify_model(work / "okla-tiny.manifest.json")
    assert document["sha256"] == manifest.sha256
    return manifest


@pytest.mark.timeout(900)
def test_a_training_killed_twice_and_stopped_once_ends_with_the_same_file(
    trainings: Trainings, undisturbed: ModelManifest, tmp_path: Path
) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    steps = sorted(chance.sample(range(10, 60, 10), 3))
    disturbances = f"seed {seed}: killed at steps {steps[:2]}, stopped at step {steps[2]}"

    for at_step in steps[:2]:
        code = trainings.disturb(
            tmp_path, at_step=at_step, number=signal.SIGKILL, after_s=chance.uniform(0, 0.2)
        )
        assert code == -signal.SIGKILL
        assert trainings.records()[-1].seen_state is JobState.KILLED
        assert not list(tmp_path.glob("*.manifest.json"))
        assert not list(tmp_path.glob("*.gguf"))
    code = trainings.disturb(tmp_path, at_step=steps[2], number=signal.SIGTERM, after_s=0)
    stopped = trainings.records()[-1]
    assert (code, stopped.seen_state, stopped.exit_code) == (130, JobState.STOPPED, 130)
    trainings.run("--config", str(TINY), "--out", str(tmp_path), "--resume")
    log = (trainings.last_folder() / "job.log").read_text()
    assert "the dataset is there" in log
    assert "the training set is there" in log

    resumed = verify_model(tmp_path / "okla-tiny.manifest.json")
    assert resumed.sha256 == undisturbed.sha256, disturbances
    assert trainings.records()[-1].state is JobState.SUCCEEDED
    lock = json.loads((tmp_path / "run.lock.json").read_text())
    assert lock["config"]["sha256"] == resumed.config_sha256
    assert lock["dataset"]["sha256"] == resumed.dataset_sha256
    assert len(lock["resumed_from"]) == 3


def test_a_finished_training_is_not_trained_again(
    trainings: Trainings, undisturbed: ModelManifest, work: Path
) -> None:
    started_s = time.monotonic()

    out = trainings.train(work)

    assert json.loads(out)["sha256"] == undisturbed.sha256
    assert time.monotonic() - started_s < 30
    assert "finished before" in (trainings.last_folder() / "job.log").read_text()


def test_a_checkpoint_is_not_overwritten_by_a_new_training(
    trainings: Trainings, undisturbed: ModelManifest, work: Path
) -> None:
    process = trainings.start("--config", str(TINY), "--out", str(work))

    _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 3
    assert "checkpoint.pt exists; add --resume" in err
    assert verify_model(work / "okla-tiny.manifest.json") == undisturbed


def test_the_estimate_of_needs_knows_the_size_of_the_network(undisturbed: ModelManifest) -> None:
    assert needs.n_parameters(load_config(TINY)) == undisturbed.architecture.n_params


def test_a_training_that_would_fill_the_disk_is_refused_with_numbers(
    trainings: Trainings, tmp_path: Path
) -> None:
    raw = yaml.safe_load(TINY.read_text())
    raw["data"]["n_train"] = 10**12
    config = tmp_path / "huge.yaml"
    config.write_text(yaml.safe_dump(raw))

    process = trainings.start("--config", str(config), "--out", str(tmp_path / "out"))
    _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 3
    assert re.search(r"disk: needs about 4,\d{3},\d{3}\.\d\d GiB, [\d,]+\.\d\d GiB free at ", err)
    assert not (tmp_path / "out").exists()
    assert trainings.records()[-1].state is JobState.FAILED
