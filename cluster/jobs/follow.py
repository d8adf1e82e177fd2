"""Show what a job says while it runs, from the log that is kept or from Ray's."""

import time
from collections.abc import Callable
from pathlib import Path

from cluster.errors import CommandError
from cluster.jobs.api import JobsApi
from cluster.jobs.view import JobView, find
from experiments.jobs.record import JobFolder

_POLL_S = 0.5


def read_log(home: Path, api: JobsApi | None, job: JobView) -> str:
    """Return what a job said.

    The job's own log where it has one; else what Ray has or had of its output, for a job that
    failed before its first line.

    Raises:
        CommandError: If nothing is left of it.
    """
    folder = JobFolder(home, job.submission_id)
    for path in (folder.log_path, folder.driver_log_path):
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    text = api.logs(job.submission_id) if api is not None else None
    if text is None:
        if job.state.ended:
            raise CommandError(f"no log of {job.submission_id} is left")
        return ""
    return text


def follow(
    home: Path, api: JobsApi | None, submission_id: str, *, write: Callable[[str], None]
) -> JobView:
    """Show the log of a job until it ends, and return how it did.

    Args:
        home: `CARRIL_HOME`.
        api: The cluster, None if there is none.
        submission_id: The job.
        write: Shows text, line ends included.
    """
    shown = ""
    while True:
        job = find(home, api, submission_id)  # before the log, so that its last lines are shown
        text = read_log(home, api, job)
        # A job that starts to keep its own log continues there, from its beginning.
        write(text[len(shown) :] if text.startswith(shown) else text)
        shown = text
        if job.state.ended:
            return job
        time.sleep(_POLL_S)
