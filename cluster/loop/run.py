"""One turn of the loop: generate, train, export, evaluate, gate, register, deploy, promote, back.

Every step calls what its own command calls; nothing here trains, judges or deploys by itself. The
served config is edited in a copy, and at the end the original is deployed again: a turn of the loop
leaves the server as it found it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.config_edit import find_target, replace_value
from cluster.errors import CommandError, ExitCode, infrastructure
from cluster.jobs.api import JobsApi
from cluster.jobs.follow import follow
from cluster.jobs.runs import settle_run
from cluster.jobs.submission import Submitted, Submitter
from cluster.loop.config import LoopConfig
from cluster.loop.state import LoopState, StepResult, load_state, save_state
from cluster.model_deployment import ConfigDeployment
from cluster.validate import ServeConfig, load_serve_config
from experiments.evaluation.errors import EvaluationError
from experiments.gate.engine import evaluate_gate
from experiments.gate.report import write_report
from experiments.jobs.code_state import code_state
from experiments.jobs.record import JobFolder, JobState
from experiments.registry import Alias, Registry
from experiments.registry.errors import RegistryError
from experiments.registry.records import ModelVersion
from experiments.whole_file import write_whole
from serve_app.config import load_yaml
from training.config import load_config
from training.data.dataset import write_dataset
from training.errors import ArtefactError, ConfigError
from training.manifest import ModelManifest, manifest_path, read_manifest, verify_model
from training.registry import Change, promote, register, rollback

INCONCLUSIVE = 5
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a turn works in and with."""

    home: Path
    folder: Path
    """Of this loop: data, edited config, gate reports, state."""
    working_dir: Path
    """Where the server was started; paths in its config are relative to this."""
    serve_config: Path
    """What is served now."""
    http_port: int
    api: JobsApi
    submitter: Submitter
    deploy: Callable[[Path], None]
    """Deploys a config file; returns once every replica runs it."""


class Loop:
    """One turn.

    Args:
        config: What it is made of.
        around: What it works in.
        say: Told what goes on within a step.
        on_step: Told every step that is done, and whether an earlier command did it.
    """

    def __init__(
        self,
        config: LoopConfig,
        around: Surroundings,
        *,
        say: Say,
        on_step: Callable[[StepResult, bool], None],
    ) -> None:
        self._config, self._around = config, around
        self._say, self._on_step = say, on_step
        self._registry = Registry(around.home / "registry")
        fresh = LoopState(config_sha256=config.sha256(), code_identity=code_state().identity)
        self.state = load_state(around.folder, fresh)

    def run(self) -> LoopState:
        """Do every step that is not done.

        Raises:
            CommandError: With the step that failed; the same command goes on there.
        """
        for name, action in (
            ("generate", self._generate),
            ("train", self._train),
            ("export", self._export),
            ("baseline", self._baseline),
            ("evaluate", self._evaluate),
            ("gate", self._gate),
            ("register", self._register),
            ("deploy at 0 %", self._deploy_challenger),
            ("promote", self._promote),
            ("rollback", self._rollback),
            ("restore", self._restore),
        ):
            done = self.state.result(name)
            if done is not None:
                self._on_step(done, True)
                continue
            self._say(name)
            started_s = time.monotonic()
            artefact = self._attempt(name, action)
            took_s = round(time.monotonic() - started_s, 1)
            result = StepResult(name=name, artefact=artefact, took_s=took_s)
            self._save(self.state.model_copy(update={"steps": (*self.state.steps, result)}))
            self._on_step(result, False)
        self._save(self.state.model_copy(update={"finished": True}))
        return self.state

    def _attempt(self, name: str, action: Callable[[], str]) -> str:
        try:
            return action()
        except GateSaysNo:
            raise  # with its own exit code
        except CommandError as error:
            raise CommandError(f"{name}: {error.message}", error.fix, error.code) from error
        except (RegistryError, EvaluationError) as error:
            raise CommandError(f"{name}: {error.message}", error.fix) from error
        except (ArtefactError, ConfigError, OSError) as error:
            raise CommandError(f"{name}: {error}") from error

    def _save(self, state: LoopState) -> None:
        self.state = state
        save_state(self._around.folder, state)

    def _artefact(self, step: str) -> str:
        done = self.state.result(step)
        assert done is not None  # noqa: S101 (steps are done in order)
        return done.artefact

    # --- from data to a file ---------------------------------------------------------------------

    def _generate(self) -> str:
        data = load_config(self._config.training).data
        manifest = write_dataset(data, self._data)
        return f"{self._data} sha256 {manifest.sha256[:12]}"

    def _train(self) -> str:
        submitted = self._around.submitter.finetune(self._config.training, out=None, again=False)
        self._finish(submitted)
        out = self._job_out(submitted)
        name = load_config(self._config.training).name
        return str(out / f"{name}.manifest.json")

    def _export(self) -> str:
        manifest = verify_model(Path(self._artefact("train")))
        return f"{manifest.file} {manifest.quantisation} sha256 {manifest.sha256[:12]}"

    # --- from a file to a verdict ----------------------------------------------------------------

    def _baseline(self) -> str:
        """Have a champion to compare with and to come back to: what the control variant serves."""
        champion = self._champion()
        if champion is not None:
            return f"{champion.label}: champion of an earlier turn"
        served = self._served_manifest()
        registered = register(
            served,
            registry=self._registry,
            name=self._config.model,
            reason="what is served when the loop begins",
        ).version
        evaluation = self._measure(served.with_name(read_manifest(served).file))
        # Nobody to compare with yet: the floors alone decide.
        gate = self._judge(evaluation, None, self._around.folder / "baseline.gate.json")
        promote(
            registered.label,
            registry=self._registry,
            gate=gate,
            reason="served already when the loop began",
        )
        return f"{registered.label} is champion"

    def _evaluate(self) -> str:
        return str(self._measure(self._candidate_file()))

    def _gate(self) -> str:
        champion = self._champion()
        assert champion is not None  # noqa: S101 (the baseline step made one)
        against = self._measure(self._file_of(champion))
        candidate = Path(self._artefact("evaluate"))
        path = self._around.folder / "gate.json"
        self._judge(candidate, against, path, model=self._candidate_file())
        return str(path)

    def _measure(self, model: Path) -> Path:
        part = self._config.evaluation
        skipped = [item for skip in part.skip for item in ("--skip", skip.value)]
        submitted = self._around.submitter.evaluate(
            [
                *("--target", "gguf", "--model", str(model)),
                *("--suite", str(self._data / "suites")),
                *("--limit", str(part.limit), "--threads", str(part.threads)),
                *skipped,
            ],
            again=False,
        )
        self._finish(submitted)
        return self._job_out(submitted)

    def _judge(
        self, candidate: Path, champion: Path | None, path: Path, *, model: Path | None = None
    ) -> Path:
        report = evaluate_gate(candidate, champion, self._config.gate, model=model)
        write_report(report, path)
        if report.verdict.value != "PASS":
            reasons = "; ".join(report.reasons)
            raise GateSaysNo(report.verdict.value, reasons, path)
        return path

    # --- from a verdict to production and back ---------------------------------------------------

    def _register(self) -> str:
        train, evaluation = Path(self._artefact("train")), Path(self._artefact("evaluate"))
        version = register(
            train,
            registry=self._registry,
            name=self._config.model,
            config=self._config.training,
            evaluation=evaluation / "report.json",
            reason="trained by the loop",
        ).version
        return version.label

    def _deploy_challenger(self) -> str:
        self._begin_serve_config()
        return self._move(Alias.CHALLENGER, "the gate passed; beside the champion, at 0 %")

    def _promote(self) -> str:
        return self._move(Alias.CHAMPION, "the gate passed and it runs")

    def _move(self, alias: Alias, reason: str) -> str:
        label = self._artefact("register")
        standing = self._registry.standings()[self._config.model]
        version = self._registry.resolve(label)
        if standing.aliases.get(alias) == version.ref:
            # In an earlier turn, or noted in the ledger right before an interruption.
            files = self._registry.verified_files(version)
            deployed = self._deployment().apply(version, files, alias)
            return f"{label} is {alias.value} already, served by {deployed.variant}"
        change = promote(
            label,
            registry=self._registry,
            alias=alias,
            gate=self._around.folder / "gate.json",
            reason=reason,
            deployment=self._deployment(),
        )
        return _moved(change)

    def _rollback(self) -> str:
        champion, label = self._champion(), self._artefact("register")
        if champion is not None and champion.label != label:
            return f"{champion.label} is champion already"
        change = rollback(
            self._config.model,
            registry=self._registry,
            reason="the loop shows the way back",
            deployment=self._deployment(),
        )
        return _moved(change)

    def _restore(self) -> str:
        original = self._with_port(self._around.folder / "original.yaml")
        before = Path.cwd()
        try:
            self._around.deploy(original)
        finally:
            os.chdir(before)  # a deployment changes to where the server was started
        return str(self._around.serve_config)

    # --- parts -----------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self._around.folder / "data"

    @property
    def _edited_config(self) -> Path:
        return self._around.folder / "serve_config.yaml"

    def _candidate_file(self) -> Path:
        path = Path(self._artefact("train"))
        return path.with_name(read_manifest(path).file)

    def _file_of(self, version: ModelVersion) -> Path:
        """Return a version's file with its manifest beside it, as an evaluation wants it."""
        raw = (self._registry.directory(version.name, version.version) / "manifest.json").read_text(
            encoding="utf-8"
        )
        blob = self._registry.verified_files(version).model
        folder = self._around.folder / f"champion-{version.sha256[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ModelManifest.model_validate_json(raw).file
        if not path.exists():
            path.symlink_to(blob)
        write_whole(manifest_path(path), raw.encode())
        return path

    def _champion(self) -> ModelVersion | None:
        standing = self._registry.standings().get(self._config.model)
        ref = standing.aliases.get(Alias.CHAMPION) if standing is not None else None
        return None if ref is None else self._registry.version(self._config.model, ref.version)

    def _served_manifest(self) -> Path:
        config: ServeConfig = load_serve_config(self._around.serve_config)
        target = find_target(
            load_yaml(self._around.serve_config.read_text(encoding="utf-8")),
            control=True,
            variant=None,
        )
        model = config.models[target.app].model
        if model is None:
            raise CommandError(f"the control variant {target.variant!r} serves no model file")
        path = manifest_path(self._around.working_dir / model.path)
        if not path.is_file():
            raise CommandError(
                f"the served model {model.path} has no manifest beside it ({path.name})",
                "serve a model that carril trained as the control variant",
            )
        return path

    def _begin_serve_config(self) -> None:
        if not self._edited_config.exists() or self.state.result("deploy at 0 %") is None:
            self._with_port(self._edited_config)

    def _with_port(self, target: Path) -> Path:
        """Copy the served config, with the port that the server really has."""
        text = self._around.serve_config.read_text(encoding="utf-8")
        options = load_serve_config(self._around.serve_config).raw.get("http_options") or {}
        if "port" in options:
            text = replace_value(text, ("http_options", "port"), self._around.http_port)
        write_whole(target, text.encode())
        return target

    def _deployment(self) -> ConfigDeployment:
        return ConfigDeployment(self._edited_config, self._around.deploy)

    def _finish(self, submitted: Submitted) -> None:
        """Wait for a job, showing what it says."""

        def write(text: str) -> None:
            for line in text.splitlines():
                self._say(line)

        around = self._around
        job = follow(around.home, around.api, submitted.submission_id, write=write)
        settle_run(around.home, job, say=self._say)
        if job.state is not JobState.SUCCEEDED:
            raise CommandError(
                f"job {job.submission_id} {job.state.value}: {job.error}",
                "the same command goes on from where it is",
            )

    def _job_out(self, submitted: Submitted) -> Path:
        record = JobFolder(self._around.home, submitted.submission_id).read()
        if record is None or record.out is None:
            raise infrastructure(f"the record of {submitted.submission_id} is gone")
        return Path(record.out)


class GateSaysNo(CommandError):
    """The gate's verdict is not PASS.

    Args:
        verdict: What it is.
        reasons: Why.
        path: The report.
    """

    def __init__(self, verdict: str, reasons: str, path: Path) -> None:
        super().__init__(f"gate: {verdict}: {reasons}", f"read {path.with_suffix('.md')}")
        self.exit_code = INCONCLUSIVE if verdict == "INCONCLUSIVE" else int(ExitCode.FAILED)


def _moved(change: Change) -> str:
    where = change.entry.deployed
    served = f" served by {where.variant}" if where is not None else ""
    return f"{change.version.label} is {change.entry.alias}{served}"
