"""Stop a job so that it can be resumed, wherever it runs."""

import contextlib
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

from cluster.errors import infrastructure
from cluster.jobs.api import JobsApi
from cluster.jobs.view import JobView, find
from experiments.jobs.record import JobFolder, JobState


def stop_job(home: Path, api: JobsApi | None, job: JobView, *, timeout_s: float) -> JobView:
    """Ask a job to stop and wait until it has.

    Args:
        home: `CARRIL_HOME`.
        api: The cluster, None if there is none.
        job: The job, not ended yet.
        timeout_s: Longest wait; a training finishes its step and writes a checkpoint.

    Raises:
        CommandError: If it does not end within the time.
    """
    if api is not None and job.ray is not None:
        api.stop(job.submission_id)
        api.wait_ended(job.submission_id, timeout_s=timeout_s)
        if job.state is JobState.SUBMITTED:
            _note_never_started(home, job)
    else:
        _terminate(job)
    deadline_s = time.monotonic() + timeout_s
    while True:
        job = find(home, api, job.submission_id)
        if job.state.ended:
            return job
        if time.monotonic() > deadline_s:
            raise infrastructure(f"{job.submission_id} did not stop within {timeout_s:.0f} s")
        time.sleep(0.3)


def _terminate(job: JobView) -> None:
    record = job.record
    # `state` is running, so the process is the one of the record: its creation time was compared.
    if record is not None and record.pid is not None and job.state is JobState.RUNNING:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM)


def _note_never_started(home: Path, job: JobView) -> None:
    """Write down, also in the tracking store, that a waiting job was withdrawn."""
    from training.tracking import start_run

    folder = JobFolder(home, job.submission_id)
    record = folder.read()
    if record is None or record.state is not JobState.SUBMITTED:
        return
    folder.write(
        record.model_copy(
            update={
                "state": JobState.STOPPED,
                "ended_at": datetime.now(UTC),
                "error": "withdrawn before it started",
            }
        )
    )
    if record.run_id:
        environment = {**os.environ, "MLFLOW_RUN_ID": record.run_id}
        start_run(record.kind, record.submission_id, home=home, environ=environment).end("KILLED")
