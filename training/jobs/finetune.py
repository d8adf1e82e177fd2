"""Train a model as a job: `python -m training.jobs.finetune --config FILE [--out DIR] [--resume]`.

The same entry point serves `carril train`, `carril jobs submit finetune`, and a plain
`ray job submit -- python -m training.jobs.finetune --config FILE`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from experiments.jobs import preflight
from experiments.jobs.code_state import code_state
from experiments.jobs.errors import JobError, JobExit
from experiments.jobs.identity import local_id, ray_submission_id, work_id
from experiments.jobs.preflight import Check
from experiments.jobs.record import home_dir
from experiments.jobs.session import JobSession, run_job
from training.errors import ArtefactError, ConfigError, TrainingError
from training.jobs.progress import ProgressView
from training.jobs.recipe import CHECKPOINT, TRAINED, Recipe, load_recipe
from training.manifest import ModelManifest, verify_model
from training.tracking import TrackedRun, start_run


class Finetuning:
    """The body of the job.

    Args:
        recipe: What to train.
        out: Work folder: data, checkpoints, model.
        resume: Whether to go on with what `out` holds; a folder that holds something is refused
            otherwise.
        install_to: Copy model and manifest there when done.
    """

    def __init__(
        self, recipe: Recipe, out: Path, *, resume: bool, install_to: Path | None = None
    ) -> None:
        self._recipe = recipe
        self._out = out
        self._resume = resume
        self._install_to = install_to
        self.manifest: ModelManifest | None = None
        """Of the finished model."""

    def __call__(self, session: JobSession) -> dict[str, Any]:
        """Do the work and return the report."""
        session.say(f"training {self._recipe.name} {self._recipe.version} in {self._out}")
        with self._tracked(session) as run:
            session.update(run_id=run.run_id, tracking_uri=run.uri)
            preflight.require(self.checks(), say=session.say)
            self.manifest = self._finished(session) or self._train(session, run)
        return {"out": str(self._out), "manifest": self.manifest.model_dump(mode="json")}

    def checks(self) -> list[Check]:
        """Look at everything that could stop the training later."""
        return [self._check_out(), *self._recipe.checks(self._out), preflight.cluster()]

    def _check_out(self) -> Check:
        found = [self._out / name for name in (CHECKPOINT, TRAINED) if (self._out / name).exists()]
        if not found:
            return Check("folder", True, f"{self._out} has no checkpoint: from the start")
        checkpoint = found[0]
        if self._resume:
            return Check("folder", True, f"going on from {checkpoint}")
        return Check("folder", False, f"{checkpoint} exists", "add --resume, or another --out")

    def _finished(self, session: JobSession) -> ModelManifest | None:
        """Return the manifest if the folder holds the finished model of this configuration."""
        path = self._out / f"{self._recipe.name}.manifest.json"
        if not self._resume or not path.exists():
            return None
        try:
            manifest = verify_model(path)
        except ArtefactError:
            return None  # half of something; the pipeline writes it anew
        if not self._recipe.made(manifest, self._out):
            return None
        session.say(f"finished before: {manifest.file}, sha256 {manifest.sha256}")
        return manifest

    def _tracked(self, session: JobSession) -> TrackedRun:
        code = session.record.code
        return start_run(
            "finetune",
            f"{self._recipe.name} {self._recipe.version}",
            tags={
                "carril.job_id": session.submission_id,
                "config.sha256": self._recipe.sha256,
                "code.commit": code.commit or "",
                "code.dirty": str(code.dirty),
            },
            params=self._recipe.params(),
            home=home_dir(),
            say=session.say,
        )

    def _train(self, session: JobSession, run: TrackedRun) -> ModelManifest:
        try:
            manifest = self._recipe.train(session, run, self._out)
            if self._install_to is not None:
                from training.pipeline import install

                install(self._out, manifest, self._install_to)
        except TrainingError as error:
            raise JobError(str(error)) from error
        except OSError as error:
            raise JobError(f"{error}; what is done is kept, go on with --resume") from error
        run.set_tags({"model.sha256": manifest.sha256})
        run.log_metrics(_numbers(manifest))
        run.log_artifact(self._out / f"{self._recipe.name}.manifest.json")
        session.say(f"{manifest.file}: {manifest.size_bytes:,} bytes, sha256 {manifest.sha256}")
        return manifest


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
        recipe = load_recipe(config_path)
        sha256 = recipe.sha256
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
    out = out or home / "training" / f"{recipe.name}-{sha256[:12]}"
    body = Finetuning(recipe, out, resume=resume, install_to=install_to)
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
