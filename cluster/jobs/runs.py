"""End the tracked run of a job that could not do so itself.

A training ends its own run. One that was killed cannot, and an evaluation knows no tracking store:
its figures are in its report. Whoever looks at such a job settles its run, once.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from cluster.jobs.view import JobView
from experiments.jobs.record import JobFolder, JobState
from training.tracking import Status, start_run

_MARK = "run-settled"

_STATUSES: dict[JobState, Status] = {
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.STOPPED: "KILLED",
    JobState.KILLED: "KILLED",
}


def settle_run(home: Path, job: JobView, *, say: Callable[[str], None]) -> None:
    """Bring the run of an ended job to its end, with the figures of its report.

    Args:
        home: `CARRIL_HOME`.
        job: The job.
        say: Told in one line why the store was left alone.
    """
    record = job.record
    if record is None or record.run_id is None or not job.state.ended:
        return
    folder = JobFolder(home, job.submission_id)
    if (folder.path / _MARK).exists():
        return
    if record.kind == "evaluate" or job.state is JobState.KILLED:
        environment = {**os.environ, "MLFLOW_RUN_ID": record.run_id}
        run = start_run(record.kind, job.submission_id, home=home, environ=environment, say=say)
        if run.run_id is None:
            return  # the store is away; the next look tries again
        run.log_metrics(_metrics(folder))
        if folder.report_path.exists():
            run.log_artifact(folder.report_path)
        run.end(_STATUSES[job.state])
        if run.n_failures:
            return
    folder.put(_MARK, "")


def _metrics(folder: JobFolder) -> dict[str, float]:
    try:
        found = json.loads(folder.report_path.read_text(encoding="utf-8")).get("metrics", {})
    except (OSError, ValueError):
        return {}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
