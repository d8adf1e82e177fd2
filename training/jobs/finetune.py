"""Train a model as a job: `python -m training.jobs.finetune --config FILE [--out DIR] [--resume]`.

The same entry point serves `carril train`, `carril jobs submit finetune`, and a plain
`ray job submit -- python -m training.jobs.finetune --config FILE`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from experiments.jobs import preflight
from experiments.jobs.code_state import code_state
from experiments.jobs.errors import JobError, JobExit
from experiments.jobs.identity import local_id, ray_submission_id, work_id
from experiments.jobs.preflight import Check
from experiments.jobs.record import home_dir
from experiments.jobs.session import JobSession, run_job
from training.config import TrainConfig, load_config
from training.errors import ArtefactError, ConfigError, TrainingError
from training.jobs import needs
from training.jobs.progress import ProgressView, parse
from training.jobs.run_lock import FILE as LOCK_FILE
from training.jobs.run_lock import differences, run_lock, to_text
from training.manifest import ModelManifest, verify_model
from training.tracking import TrackedRun, start_run

if TYPE_CHECKING:
    from training.data.dataset import DatasetManifest

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "llama_cpp")
_CHECKPOINT = "checkpoint.pt"


class Finetuning:
    """The body of the job.

    Args:
        config: The configuration.
        config_path: Where it was read.
        out: Work folder: data, checkpoints, model.
        resume: Whether to go on with what `out` holds; a folder that holds something is refused
            otherwise.
        install_to: Copy model and manifest there when done.
    """

    def __init__(
        self,
        config: TrainConfig,
        config_path: Path,
        out: Path,
        *,
        resume: bool,
        install_to: Path | None = None,
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._out = out
        self._resume = resume
        self._install_to = install_to
        self.manifest: ModelManifest | None = None
        """Of the finished model."""

    def __call__(self, session: JobSession) -> dict[str, Any]:
        """Do the work and return the report."""
        session.say(f"training {self._config.name} {self._config.version} in {self._out}")
        preflight.require(self.checks(), say=session.say)
        finished = self._finished()
        if finished is not None:
            session.say(f"finished before: {finished.file}, sha256 {finished.sha256}")
            self.manifest = finished
            return self._report(finished)
        with self._tracked(session) as run:
            session.update(run_id=run.run_id, tracking_uri=run.uri)
            try:
                return self._train(session, run)
            except TrainingError as error:
                raise JobError(str(error)) from error
            except OSError as error:
                raise JobError(f"{error}; what is done is kept, continue with --resume") from error

    def checks(self) -> list[Check]:
        """Look at everything that could stop the training later."""
        missing = preflight.packages(_PACKAGES, target="training")
        return [
            missing,
            self._check_data(),
            self._check_out(),
            preflight.disk(self._out, needs.disk_bytes(self._config)),
            preflight.memory(needs.memory_bytes(self._config)),
            preflight.cluster(),
        ]

    def _check_data(self) -> Check:
        from training.data.catalog import CatalogError, load_catalog

        try:
            catalog = load_catalog()
        except (CatalogError, OSError) as error:
            return Check("data", False, str(error), "repair the catalogue of phrases")
        n_train = self._config.data.n_train
        return Check("data", True, f"{len(catalog.patterns)} phrases for {n_train:,} conversations")

    def _check_out(self) -> Check:
        checkpoint = self._out / _CHECKPOINT
        if not checkpoint.exists():
            return Check("folder", True, f"{self._out} has no checkpoint: from the start")
        if self._resume:
            return Check("folder", True, f"going on from {checkpoint}")
        return Check(
            "folder", False, f"{checkpoint} exists", "add --resume, or choose another --out"
        )

    def _finished(self) -> ModelManifest | None:
        """Return the manifest if the folder holds the finished model of this configuration."""
        path = self._out / f"{self._config.name}.manifest.json"
        if not self._resume or not path.exists():
            return None
        try:
            manifest = verify_model(path)
        except ArtefactError:
            return None  # half of something; the pipeline writes it anew
        return manifest if manifest.config_sha256 == self._config.sha256() else None

    def _tracked(self, session: JobSession) -> TrackedRun:
        config = self._config
        return start_run(
            "finetune",
            f"{config.name} {config.version}",
            tags={
                "carril.job_id": session.submission_id,
                "config.sha256": config.sha256(),
                "code.commit": session.record.code.commit or "",
                "code.dirty": str(session.record.code.dirty),
            },
            params={
                "name": config.name,
                "version": config.version,
                "seed": config.seed,
                **{f"optim.{k}": v for k, v in config.optim.model_dump(mode="json").items()},
            },
            home=home_dir(),
            say=session.say,
        )

    def _train(self, session: JobSession, run: TrackedRun) -> dict[str, Any]:
        from training.data.dataset import write_dataset
        from training.pipeline import install
        from training.pipeline import run as run_pipeline

        session.say("writing the dataset")
        dataset = write_dataset(self._config.data, self._out / "data")
        self._write_lock(session, dataset)
        run.set_tags({"dataset.sha256": dataset.sha256})
        run.log_artifact(self._out / LOCK_FILE)

        def report(line: str) -> None:
            session.say(line)
            part = parse(line)
            if part is not None and part.metrics:
                run.log_metrics(part.metrics, step=part.done)
            session.stop_here()

        with session.stopping_at_checkpoints():
            manifest = run_pipeline(self._config, self._out, report=report)
        if self._install_to is not None:
            install(self._out, manifest, self._install_to)
        run.set_tags({"model.sha256": manifest.sha256})
        run.log_metrics(_numbers(manifest))
        for name in ("metrics.json", f"{self._config.name}.manifest.json"):
            run.log_artifact(self._out / name)
        self.manifest = manifest
        session.say(f"{manifest.file}: {manifest.size_bytes:,} bytes, sha256 {manifest.sha256}")
        return self._report(manifest)

    def _write_lock(self, session: JobSession, dataset: "DatasetManifest") -> None:
        lock = run_lock(self._config, self._config_path, dataset, session.record.code)
        path = self._out / LOCK_FILE
        if path.exists() and (self._out / _CHECKPOINT).exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            for line in differences(before, lock):
                session.say(f"changed since this training began: {line}")
            lock["resumed_from"] = [*before.pop("resumed_from", []), before]
        text = to_text(lock)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
        session.folder.put(LOCK_FILE, text)

    def _report(self, manifest: ModelManifest) -> dict[str, Any]:
        return {"out": str(self._out), "manifest": manifest.model_dump(mode="json")}


class FinetuneResult(NamedTuple):
    """How a training ended."""

    code: int
    """Exit code of the process."""
    manifest: ModelManifest | None
    """Of the model, if it went well."""
    out: Path | None
    """Its work folder."""


def run_finetune(
    config_path: Path,
    *,
    out: Path | None,
    resume: bool,
    install_to: Path | None = None,
    expected_sha256: str | None = None,
    echo: Callable[[str], None],
) -> FinetuneResult:
    """Run the job and return how it ended.

    Args:
        config_path: The configuration.
        out: Work folder; None is one under `CARRIL_HOME`, named after the configuration.
        resume: Whether to go on with what it holds.
        install_to: Copy model and manifest there when done.
        expected_sha256: Hash of the configuration that was submitted.
        echo: Shows a line of progress.

    Raises:
        ConfigError: If the configuration cannot be used and no cluster waits for a record of that.
        JobError: If a job of this id runs already.
    """
    home = home_dir()
    submitted = ray_submission_id()
    nice = submitted is not None
    try:
        config = load_config(config_path)
        sha256 = config.sha256()
        if expected_sha256 not in (None, sha256):
            raise ConfigError(
                f"{str(config_path)!r} was edited after the job was submitted: its content has "
                f"SHA-256 {sha256}, submitted was {expected_sha256}; submit it again"
            )
    except ConfigError as error:
        if submitted is None:
            raise
        refusal = JobError(str(error), JobExit.USAGE)
        code = run_job(
            "finetune", submitted, _refused(refusal), home=home, echo=echo, nice=nice,
            config=config_path,
        )  # fmt: skip
        return FinetuneResult(code, None, None)
    work = work_id("finetune", config_sha256=sha256, code_identity=code_state().identity)
    out = out or home / "training" / f"{config.name}-{sha256[:12]}"
    body = Finetuning(config, config_path, out, resume=resume, install_to=install_to)
    code = run_job(
        "finetune",
        submitted or local_id(work),
        body,
        home=home,
        echo=echo,
        nice=nice,
        config=config_path,
        config_sha256=sha256,
        arguments=tuple(sys.argv[1:]),
        out=out,
    )
    return FinetuneResult(code, body.manifest, out)


def _refused(error: JobError) -> Callable[[JobSession], dict[str, Any]]:
    def body(_: JobSession) -> dict[str, Any]:
        raise error

    return body


def _numbers(manifest: ModelManifest) -> dict[str, float]:
    values = manifest.metrics.model_dump(mode="json")
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def command(
    config: Annotated[Path, typer.Option("--config", help="Training configuration (YAML).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Work folder; under CARRIL_HOME by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from a checkpoint.")] = False,
    install: Annotated[
        Path | None, typer.Option("--install", help="Copy model and manifest here when done.")
    ] = None,
    config_sha256: Annotated[
        str | None, typer.Option(help="Refuse a configuration with another hash.")
    ] = None,
) -> None:
    """Train a model as a job."""
    view = ProgressView()
    try:
        code = run_finetune(
            config,
            out=out,
            resume=resume,
            install_to=install,
            expected_sha256=config_sha256,
            echo=view.show,
        ).code
    except ConfigError as error:
        view.show(f"error: {error}")
        code = JobExit.USAGE
    except JobError as error:
        view.show(f"error: {error}")
        code = error.code
    raise typer.Exit(int(code))


def main() -> None:
    """Run the job from the command line."""
    typer.run(command)


if __name__ == "__main__":
    main()
