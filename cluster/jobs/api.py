"""Ray's Jobs API over REST.

REST rather than Ray's `JobSubmissionClient`, which takes seconds to import, reads tokens and
addresses from the environment at import, and says no more.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.dashboard import Dashboard
from cluster.errors import CommandError, infrastructure

_JOBS = "/api/jobs/"
_NODES = "/api/v0/nodes?detail=1"

RayStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
TERMINAL = ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is handed to Ray."""

    submission_id: str
    entrypoint: str
    env_vars: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """What Ray knows about a job."""

    submission_id: str
    status: RayStatus
    entrypoint: str
    message: str | None
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in TERMINAL


class JobsApi(Dashboard):
    """What the dashboard of one cluster says and does about jobs."""

    def submit(self, job: Submission) -> None:
        """Hand a job to the cluster.

        Raises:
            CommandError: If Ray refuses it, for example as an id is taken.
        """
        body = {
            "submission_id": job.submission_id,
            "entrypoint": job.entrypoint,
            "runtime_env": {"env_vars": dict(job.env_vars)},
            "metadata": dict(job.metadata),
            "entrypoint_resources": dict(job.resources),
        }
        response = self.request("POST", _JOBS, json=body, expect=(400, 500))
        if response.is_error:
            last = response.text.strip().splitlines()[-1:] or ["no reason given"]
            raise CommandError(f"Ray refuses the job {job.submission_id}: {last[0]}")

    def job(self, submission_id: str) -> RayJob | None:
        """Return a job, None if this cluster does not know it."""
        response = self.request("GET", f"{_JOBS}{submission_id}", expect=(404,))
        return None if response.status_code == 404 else _job(response.json())

    def jobs(self) -> dict[str, RayJob]:
        """Return all submitted jobs by id."""
        found = (_job(item) for item in self.request("GET", _JOBS).json())
        return {job.submission_id: job for job in found if job is not None}

    def logs(self, submission_id: str) -> str | None:
        """Return what a job wrote, None if that is gone."""
        response = self.request("GET", f"{_JOBS}{submission_id}/logs", expect=(400, 404, 500))
        return None if response.is_error else str(response.json().get("logs", ""))

    def stop(self, submission_id: str) -> None:
        """Ask a job to stop; Ray waits before it kills."""
        self.request("POST", f"{_JOBS}{submission_id}/stop", expect=(404,))

    def total_of(self, resource: str) -> float:
        """Return how much of a resource the live nodes have."""
        answer = self.request("GET", _NODES).json()
        nodes = ((answer.get("data") or {}).get("result") or {}).get("result") or []
        alive = (node for node in nodes if node.get("state") == "ALIVE")
        return sum(float((node.get("resources_total") or {}).get(resource, 0)) for node in alive)

    def wait_ended(self, submission_id: str, *, timeout_s: float) -> RayJob:
        """Wait until a job has ended.

        Raises:
            CommandError: If it does not within the time, or vanishes.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            job = self.job(submission_id)
            if job is None:
                raise infrastructure(f"the cluster does not know {submission_id} any more")
            if job.ended:
                return job
            if time.monotonic() > deadline_s:
                raise infrastructure(
                    f"{submission_id} is still {job.status} after {timeout_s:.0f} s"
                )
            time.sleep(0.3)


def _job(raw: Mapping[str, Any]) -> RayJob | None:
    if not raw.get("submission_id"):
        return None  # a driver that connected by itself
    return RayJob(
        submission_id=str(raw["submission_id"]),
        status=raw["status"],
        entrypoint=str(raw.get("entrypoint", "")),
        message=raw.get("message"),
        started_at=_time(raw.get("start_time")),
        ended_at=_time(raw.get("end_time")),
        exit_code=raw.get("driver_exit_code"),
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
