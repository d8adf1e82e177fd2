"""The watch for drift as a job on the cluster: one at a time, outside the queue of trainings."""

import shlex
import sys
from pathlib import Path

from cluster.connection import Connection
from cluster.errors import CommandError, ExitCode
from cluster.jobs.api import JobsApi, Submission
from cluster.jobs.submission import Submitted
from cluster.jobs.view import all_jobs
from experiments.drift.baseline import read_baseline
from experiments.drift.errors import DriftError
from experiments.drift.policy import read_policy
from experiments.drift.run import drift_home
from experiments.jobs.code_state import ROOT
from experiments.jobs.drift import seconds
from experiments.jobs.identity import free_id, is_attempt
from experiments.jobs.record import JobState

_ID = "drift"
_DEFAULT_CONFIG = Path("drift.yaml")


def watch_drift(
    api: JobsApi, connection: Connection, home: Path, *, config: Path | None, every: str | None
) -> Submitted:
    """Start the watch, unless one goes on already.

    Args:
        api: The cluster.
        connection: Where it is.
        home: `CARRIL_HOME`.
        config: Thresholds and alerts; ./drift.yaml by default, where there is one.
        every: Time between checks, such as `90m`; what the configuration says by default.

    Raises:
        CommandError: If it could not check anything: no baseline, a configuration that is wrong.
    """
    if config is None and _DEFAULT_CONFIG.is_file():
        config = _DEFAULT_CONFIG
    try:
        read_policy(config)
        if every is not None:
            seconds(every)
        if connection.record is not None:  # a cluster elsewhere has a home of its own
            read_baseline(drift_home(home) / "baseline.json")
    except DriftError as error:
        raise CommandError(error.message, error.fix, ExitCode.USAGE) from error
    jobs = all_jobs(home, api)
    for job in jobs:
        if is_attempt(job.submission_id, _ID) and not job.state.ended:
            return Submitted(
                submission_id=job.submission_id, new=False, state=job.state, out=None, run_id=None
            )
    submission_id = free_id(_ID, {job.submission_id for job in jobs})
    arguments = ["--config", str(config.absolute())] if config is not None else []
    arguments += ["--every", every] if every is not None else []
    api.submit(_submission(submission_id, arguments, connection, home))
    return Submitted(
        submission_id=submission_id, new=True, state=JobState.SUBMITTED, out=None, run_id=None
    )


def _submission(
    submission_id: str, arguments: list[str], connection: Connection, home: Path
) -> Submission:
    """Describe the job. Addresses and keys of alerts are not handed on: Ray shows what is."""
    local = connection.record is not None
    python = sys.executable if local else "python"
    command = shlex.join([python, "-m", "experiments.jobs.drift", *arguments])
    return Submission(
        submission_id=submission_id,
        entrypoint=f"cd {shlex.quote(str(Path.cwd()))} && exec {command}" if local else command,
        env_vars={"CARRIL_HOME": str(home), "PYTHONPATH": str(ROOT)} if local else {},
        metadata={"carril.kind": "drift"},
    )
