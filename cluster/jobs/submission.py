"""From a configuration to a job on the cluster: the same work is submitted once."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.connection import Connection
from cluster.errors import CommandError, ExitCode, infrastructure
from cluster.jobs.api import JobsApi, Submission
from cluster.jobs.view import JobView, all_jobs
from experiments.jobs import preflight
from experiments.jobs.code_state import ROOT, CodeState, code_state
from experiments.jobs.errors import JobError
from experiments.jobs.identity import free_id, is_attempt, work_id
from experiments.jobs.record import JobFolder, JobRecord, JobState, Kind
from training.errors import ConfigError
from training.tracking import TrackedRun, start_run

TRAINER = "trainer"
"""Resource of which the cluster has one: one training or evaluation at a time."""

_MODULES: dict[Kind, str] = {
    "finetune": "training.jobs.finetune",
    "evaluate": "experiments.jobs.evaluate",
}
_PASSED_ON = ("MLFLOW_TRACKING_URI", "CARRIL_TRACKING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a request to run something."""

    submission_id: str
    new: bool
    """False if the same work runs or has succeeded already."""
    state: JobState
    out: str | None
    run_id: str | None
    waits_for: str | None = None
    """The job that has the trainer now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A piece of work before it has an attempt."""

    kind: Kind
    work_id: str
    name: str
    config: Path | None
    config_sha256: str
    code: CodeState
    out_option: Path | None


class Submitter:
    """Submits jobs to one cluster.

    Args:
        api: Its Jobs API.
        connection: Where it is.
        home: `CARRIL_HOME`.
        say: Told what is going on.
    """

    def __init__(
        self, api: JobsApi, connection: Connection, home: Path, say: Callable[[str], None]
    ) -> None:
        self._api = api
        self._connection = connection
        self._home = home
        self._say = say

    def finetune(self, config_path: Path, *, out: Path | None, again: bool) -> Submitted:
        """Submit a training; it goes on from the checkpoint that an earlier attempt left.

        Raises:
            CommandError: If the configuration, the machine or the cluster do not allow it.
        """
        from training.jobs.finetune import Finetuning
        from training.jobs.recipe import load_recipe

        try:
            recipe = load_recipe(config_path)
        except ConfigError as error:
            raise CommandError(str(error), code=ExitCode.USAGE) from error
        code = code_state()
        work = _Work(
            kind="finetune",
            work_id=work_id(
                "finetune", config_sha256=recipe.work_sha256, code_identity=code.identity
            ),
            name=f"{recipe.name} {recipe.version}",
            config=config_path.absolute(),
            config_sha256=recipe.sha256,
            code=code,
            out_option=out.absolute() if out else None,
        )

        def arguments(folder: Path) -> list[str]:
            body = Finetuning(recipe, folder, resume=True)
            self._preflight(body.checks)
            given = ["--config", str(work.config), "--config-sha256", work.config_sha256]
            return [*given, "--out", str(folder), "--resume"]

        return self._submit(work, arguments, again=again)

    def evaluate(self, given: Sequence[str], *, again: bool) -> Submitted:
        """Submit an evaluation; `given` are the arguments of `experiments.jobs.evaluate`.

        Raises:
            CommandError: If they cannot be used, or the cluster does not allow it.
        """
        from experiments.evaluation.errors import BadInput
        from experiments.jobs.evaluate import parse

        try:
            sha256 = parse(given).sha256()
        except BadInput as error:
            raise CommandError(error.message, error.fix, ExitCode.USAGE) from error
        except OSError as error:
            raise CommandError(f"cannot read what is to be measured: {error}") from error
        code = code_state()
        work = _Work(
            kind="evaluate",
            work_id=work_id("evaluate", config_sha256=sha256, code_identity=code.identity),
            name=" ".join(given),
            config=None,
            config_sha256=sha256,
            code=code,
            out_option=None,
        )
        return self._submit(work, lambda _: [_absolute(item) for item in given], again=again)

    def _submit(
        self, work: _Work, arguments: Callable[[Path], list[str]], *, again: bool
    ) -> Submitted:
        jobs = all_jobs(self._home, self._api)
        attempts = [job for job in jobs if is_attempt(job.submission_id, work.work_id)]
        last = attempts[-1] if attempts else None
        if last is not None and not again and not _may_be_repeated(last):
            return _known(last)
        submission_id = free_id(work.work_id, {job.submission_id for job in jobs})
        folder = work.out_option or self._work_folder(submission_id, last)
        command = arguments(folder)
        if self._api.total_of(TRAINER) < 1:
            raise infrastructure(
                f"the cluster has no resource {TRAINER!r}, the job would wait for ever",
                "carril up starts one that has; elsewhere: "
                "ray start --resources='{\"trainer\": 1}'",
            )
        busy = [job for job in jobs if job.record is not None and not job.state.ended]
        run = self._start_run(work, submission_id)
        record = JobRecord(
            submission_id=submission_id,
            kind=work.kind,
            state=JobState.SUBMITTED,
            created_at=datetime.now(UTC),
            config=str(work.config) if work.config else None,
            config_sha256=work.config_sha256,
            arguments=tuple(command),
            out=str(folder) if work.kind == "finetune" else None,
            code=work.code,
            run_id=run.run_id,
            tracking_uri=run.uri,
        )
        self._hand_over(record, run)
        return Submitted(
            submission_id=submission_id,
            new=True,
            state=JobState.SUBMITTED,
            out=record.out,
            run_id=run.run_id,
            waits_for=busy[-1].submission_id if busy else None,
        )

    def _hand_over(self, record: JobRecord, run: TrackedRun) -> None:
        folder = JobFolder(self._home, record.submission_id)
        try:
            folder.path.mkdir(parents=True)
        except FileExistsError:
            raise CommandError(
                f"{record.submission_id} is being submitted by another command", "carril jobs ls"
            ) from None
        folder.write(record)  # before Ray has it: the job itself goes on with this record
        try:
            self._api.submit(self._submission(record))
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            run.end("FAILED")
            raise

    def _submission(self, record: JobRecord) -> Submission:
        local = self._connection.record is not None
        python = sys.executable if local else "python"
        command = shlex.join([python, "-m", _MODULES[record.kind], *record.arguments])
        environment = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
        if record.run_id:
            environment["MLFLOW_RUN_ID"] = record.run_id
        if local:
            environment |= {"CARRIL_HOME": str(self._home), "PYTHONPATH": str(ROOT)}
            command = f"cd {shlex.quote(str(Path.cwd()))} && exec {command}"
        metadata = {
            "carril.kind": record.kind,
            "carril.config_sha256": record.config_sha256 or "",
            "mlflow.run_id": record.run_id or "",
        }
        return Submission(
            submission_id=record.submission_id,
            entrypoint=command,
            env_vars=environment,
            metadata=metadata,
            resources={TRAINER: 1},
        )

    def _start_run(self, work: _Work, submission_id: str) -> TrackedRun:
        return start_run(
            work.kind,
            work.name,
            tags={"ray.job_id": submission_id, "config.sha256": work.config_sha256},
            home=self._home,
            environ={k: v for k, v in os.environ.items() if k != "MLFLOW_RUN_ID"},
            say=self._say,
        )

    def _work_folder(self, submission_id: str, last: JobView | None) -> Path:
        """Return where to work: where an unfinished attempt stopped, else a new folder."""
        record = last.record if last is not None else None
        if record is not None and record.out and record.state is not JobState.SUCCEEDED:
            return Path(record.out)
        return self._home / "training" / submission_id

    def _preflight(self, checks: Callable[[], Sequence[preflight.Check]]) -> None:
        if self._connection.record is None:
            return  # the cluster is elsewhere; the job looks around there
        try:
            preflight.require(checks(), say=lambda _: None)
        except JobError as error:
            raise infrastructure(error.message) from error


def _may_be_repeated(job: JobView) -> bool:
    return job.state.ended and job.state is not JobState.SUCCEEDED


def _known(job: JobView) -> Submitted:
    record = job.record
    return Submitted(
        submission_id=job.submission_id,
        new=False,
        state=job.state,
        out=record.out if record else None,
        run_id=record.run_id if record else None,
    )


def _absolute(item: str) -> str:
    return str(Path(item).absolute()) if not item.startswith("-") and Path(item).exists() else item
