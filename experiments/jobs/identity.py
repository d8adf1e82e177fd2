"""Ids of jobs: the same work on the same code has the same id."""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime

from experiments.jobs.record import Kind

_DIGITS = 12


def work_id(kind: Kind, *, config_sha256: str, code_identity: str) -> str:
    """Return the id of a piece of work: equal for equal configuration and code."""
    text = json.dumps([kind, config_sha256, code_identity])
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"


def attempt_id(work: str, attempt: int) -> str:
    """Return the id of an attempt; the first one has the id of the work itself."""
    return work if attempt == 1 else f"{work}-{attempt}"


def is_attempt(submission_id: str, work: str) -> bool:
    """Return whether an id is that of an attempt at a piece of work."""
    return submission_id == work or (
        submission_id.startswith(f"{work}-") and submission_id.removeprefix(f"{work}-").isdigit()
    )


def free_id(work: str, taken: set[str]) -> str:
    """Return the id of the next attempt at a piece of work."""
    attempt = 1
    while attempt_id(work, attempt) in taken:
        attempt += 1
    return attempt_id(work, attempt)


def local_id(work: str) -> str:
    """Return the id of a run that no cluster named."""
    return f"{work}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"


def ray_submission_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the id under which Ray runs this process, None outside a Ray job."""
    try:
        config = json.loads(environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None
