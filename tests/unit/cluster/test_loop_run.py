"""The loop's steps with the real gate and registry; training and cluster are played."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from cluster.errors import CommandError
from cluster.jobs.submission import Submitted
from cluster.loop.config import load_loop_config
from cluster.loop.run import GateSaysNo, Loop, Surroundings
from cluster.loop.state import StepResult
from experiments.jobs.code_state import CodeState
from experiments.jobs.record import JobFolder, JobRecord, JobState, Kind
from experiments.registry import Registry
from tests.unit.experiments.gate.runs import golden, write_run
from tests.unit.training.registry.builders import write_model
from training.config import load_config
from training.manifest import manifest_path, read_manifest

SHIPPED_VERSION = json.loads(
    (Path(__file__).parents[3] / "models" / "okla" / "okla-v1.manifest.json").read_text("utf-8")
)["version"]


ROOT = Path(__file__).resolve().parents[3]
N_ITEMS = 300


class Stage:
    """Plays the cluster: jobs succeed at once, deployments are remembered."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = load_loop_config(ROOT / "training" / "configs" / "loop.yaml")
        self.deployed: list[dict[str, Any]] = []
        self.refusals: list[int] = []
        """Numbers of deployments that fail."""
        self.trained = 0
        self.candidate_accuracy = 1.0
        self.shown: list[tuple[str, bool]] = []

    def loop(self) -> Loop:
        around = Surroundings(
            home=self.home,
            folder=self.home / "loop",
            working_dir=ROOT,
            serve_config=ROOT / "serve_config.yaml",
            http_port=8999,
            api=None,  # type: ignore[arg-type]
            submitter=self,  # type: ignore[arg-type]
            deploy=self.deploy,
        )
        return Loop(self.config, around, say=lambda _: None, on_step=self.show)

    def show(self, result: StepResult, earlier: bool) -> None:
        self.shown.append((result.name, earlier))

    def deploy(self, path: Path) -> None:
        self.deployed.append(yaml.safe_load(path.read_text(encoding="utf-8")))
        if len(self.deployed) in self.refusals:
            raise CommandError("a replica did not start")

    def finetune(self, config: Path, *, out: Path | None, again: bool) -> Submitted:
        assert (out, again) == (None, False)
        self.trained += 1
        folder = self.home / "training"
        loaded = load_config(config)
        write_model(folder, loaded.version, name=loaded.name, config_sha256=loaded.sha256())
        return self._job("finetune", "finetune-1", folder)

    def evaluate(self, given: Sequence[str], *, again: bool) -> Submitted:
        assert not again
        model = Path(given[given.index("--model") + 1])
        manifest = read_manifest(manifest_path(model))
        out = self.home / f"evaluation-{manifest.sha256[:12]}"
        if not out.exists():
            shipped = manifest.name != load_config(self.config.training).name
            share = 1.0 if shipped else self.candidate_accuracy
            answers = golden(np.arange(N_ITEMS) < share * N_ITEMS)
            write_run(out, answers, sha256=manifest.sha256, version=manifest.version)
            report = json.loads((out / "report.json").read_text())
            report["target"]["name"] = manifest.name
            (out / "report.json").write_text(json.dumps(report))
        return self._job("evaluate", f"evaluate-{manifest.sha256[:12]}", out)

    def _job(self, kind: Kind, job: str, out: Path) -> Submitted:
        folder = JobFolder(self.home, job)
        folder.write(
            JobRecord(
                submission_id=job,
                kind=kind,
                state=JobState.SUCCEEDED,
                created_at=datetime.now(UTC),
                code=CodeState(version="1"),
                out=str(out),
            )
        )
        folder.put("job.log", "succeeded\n")
        return Submitted(
            submission_id=job, new=True, state=JobState.SUBMITTED, out=str(out), run_id=None
        )

    def served(self, at: int) -> tuple[str, str, dict[str, int]]:
        """Return hashes of stable and candidate, and the allocation, of a deployment."""
        apps = {app["name"]: app for app in self.deployed[at]["applications"]}
        own = {name: app["deployments"][0]["user_config"] for name, app in apps.items()}
        [experiment] = own["gateway"]["experiments"].values()
        return (
            own["okla-stable"]["model"]["sha256"],
            own["okla-candidate"]["model"]["sha256"],
            experiment["allocation"],
        )

    @property
    def registry(self) -> Registry:
        return Registry(self.home / "registry")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    # Half a minute of generating, tested elsewhere; and whoever edits code makes it another turn.
    monkeypatch.setattr(
        "cluster.loop.run.write_dataset", lambda *_: SimpleNamespace(sha256="d" * 64)
    )
    monkeypatch.setattr("cluster.loop.run.code_state", lambda: CodeState(version="1"))
    return Stage(tmp_path)


def test_a_turn_deploys_at_zero_promotes_comes_back_and_restores(stage: Stage) -> None:
    state = stage.loop().run()

    assert state.finished
    original = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    candidate = hashlib.sha256(b"GGUF weights of 0.1.0").hexdigest()
    shipped = read_manifest(ROOT / "models/okla/okla-v1.manifest.json").sha256
    assert len(stage.deployed) == 4
    assert stage.served(0) == (shipped, candidate, {"stable": 100, "candidate": 0})
    assert stage.served(1) == (candidate, candidate, {"stable": 100, "candidate": 0})
    assert stage.served(2) == (shipped, candidate, {"stable": 100, "candidate": 0})
    assert stage.deployed[3]["applications"] == original
    assert all(config["http_options"]["port"] == 8999 for config in stage.deployed)
    assert stage.registry.resolve("okla-rehearsal@champion").sha256 == shipped
    assert [str(entry.kind) for entry in stage.registry.entries()][-3:] == [
        "promote",
        "promote",
        "rollback",
    ]


def test_an_interrupted_turn_goes_on_where_it_stopped(stage: Stage) -> None:
    stage.refusals = [2]  # the promotion; what is deployed after it brings the old config back
    with pytest.raises(CommandError, match="promote: a replica did not start"):
        stage.loop().run()
    assert str(stage.registry.entries()[-1].kind) == "promote"  # of the challenger
    stage.shown.clear()

    state = stage.loop().run()

    assert state.finished
    assert [name for name, earlier in stage.shown if not earlier] == [
        "promote",
        "rollback",
        "restore",
    ]
    assert stage.trained == 1


def test_a_second_turn_goes_the_whole_way_again(stage: Stage) -> None:
    stage.candidate_accuracy = 0.4  # worse than what is served; the rules of a rehearsal allow it
    stage.loop().run()
    stage.shown.clear()

    stage.loop().run()

    assert not any(earlier for _, earlier in stage.shown)
    assert len(stage.deployed) == 8
    assert stage.served(4) == stage.served(0)


def test_a_model_that_the_gate_refuses_is_neither_registered_nor_deployed(stage: Stage) -> None:
    stage.candidate_accuracy = 0.0

    with pytest.raises(GateSaysNo, match="gate: FAIL") as refused:
        stage.loop().run()

    assert refused.value.exit_code == 1
    assert stage.deployed == []
    assert [version.version for version in stage.registry.versions()] == [SHIPPED_VERSION]
