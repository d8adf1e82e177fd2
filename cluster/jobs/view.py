"""One view of every job: what its record says, what Ray says, and which of them is right."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.errors import CommandError, ExitCode
from cluster.jobs.api import JobsApi, RayJob
from experiments.jobs.record import JobFolder, JobRecord, JobState, Unreadable, records

_RAY_STATES = {
    "PENDING": JobState.SUBMITTED,
    "RUNNING": JobState.RUNNING,
    "STOPPED": JobState.STOPPED,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as the command line shows it."""

    submission_id: str
    state: JobState
    record: JobRecord | None
    """None for a job that is not carril's."""
    ray: RayJob | None
    """None if no cluster knows it (any more)."""
    unreadable: str | None = None
    """What is wrong with its record, where there is one that cannot be used."""

    @property
    def error(self) -> str | None:
        """Why it did not end well."""
        if self.unreadable is not None:
            return self.unreadable
        if self.state is JobState.KILLED:
            return "its process is gone without a word: killed, or the machine went down"
        if self.record is not None and self.record.error:
            return self.record.error
        if self.ray is not None and self.state is JobState.FAILED:
            return self.ray.message
        return None

    def as_json(self) -> dict[str, Any]:
        """Return everything about it."""
        record = self.record.model_dump(mode="json") if self.record else {}
        return {
            **record,
            "submission_id": self.submission_id,
            "state": self.state.value,
            "error": self.error,
            "ray_status": self.ray.status if self.ray else None,
        }


def all_jobs(home: Path, api: JobsApi | None) -> list[JobView]:
    """Return every job, oldest first.

    Args:
        home: `CARRIL_HOME`.
        api: The cluster, None if there is none now.
    """
    known = api.jobs() if api is not None else {}
    views = [
        _unreadable(found, known.pop(found.submission_id, None))
        if isinstance(found, Unreadable)
        else _view(home, found, known.pop(found.submission_id, None), api)
        for found in records(home)
    ]
    views += [
        JobView(submission_id=key, state=_RAY_STATES[job.status], record=None, ray=job)
        for key, job in known.items()
    ]
    return sorted(views, key=_started)


def find(home: Path, api: JobsApi | None, wanted: str) -> JobView:
    """Return the job with an id, or the only one whose id begins so.

    Raises:
        CommandError: If there is none, or more than one.
    """
    views = all_jobs(home, api)
    exact = [view for view in views if view.submission_id == wanted]
    matches = exact or [view for view in views if view.submission_id.startswith(wanted)]
    if len(matches) != 1:
        known = ", ".join(view.submission_id for view in (matches or views)[-8:]) or "none"
        how = "matches several jobs" if matches else "is no job"
        raise CommandError(f"{wanted!r} {how}", f"known: {known}", ExitCode.USAGE)
    return matches[0]


def keep_driver_logs(home: Path, api: JobsApi) -> None:
    """Copy what Ray has of every job's output, before the cluster goes."""
    for found in records(home):
        _keep_driver_log(home, found.submission_id, api)


def _unreadable(found: Unreadable, ray: RayJob | None) -> JobView:
    return JobView(
        submission_id=found.submission_id,
        state=JobState.UNREADABLE if ray is None else _RAY_STATES[ray.status],
        record=None,
        ray=ray,
        unreadable=found.error,
    )


def _view(home: Path, record: JobRecord, ray: RayJob | None, api: JobsApi | None) -> JobView:
    if ray is not None and ray.ended and api is not None:
        _keep_driver_log(home, record.submission_id, api)
    state = record.seen_state
    if state is JobState.SUBMITTED:
        # It has not said anything itself: waits, has just begun, or failed before its own code.
        state = _RAY_STATES[ray.status] if ray is not None else JobState.KILLED
        if ray is not None and ray.ended:
            record = _note_end(home, record, ray)
    elif state is JobState.KILLED and ray is not None and not ray.ended:
        state = JobState.RUNNING  # Ray has not noticed yet, or it runs on another machine
    return JobView(submission_id=record.submission_id, state=state, record=record, ray=ray)


def _note_end(home: Path, record: JobRecord, ray: RayJob) -> JobRecord:
    """Write down how a job ended that did not live to do so itself."""
    ended = record.model_copy(
        update={
            "state": _RAY_STATES[ray.status],
            "ended_at": ray.ended_at or datetime.now(UTC),
            "exit_code": ray.exit_code,
            "error": None if ray.status == "SUCCEEDED" else ray.message,
        }
    )
    JobFolder(home, record.submission_id).write(ended)
    return ended


def _keep_driver_log(home: Path, submission_id: str, api: JobsApi) -> None:
    folder = JobFolder(home, submission_id)
    if not folder.driver_log_path.exists():
        text = api.logs(submission_id)
        if text is not None:
            folder.put(folder.driver_log_path.name, text)


def _started(view: JobView) -> datetime:
    if view.record is not None:
        return view.record.created_at
    return (view.ray.started_at if view.ray else None) or datetime.fromtimestamp(0, UTC)
