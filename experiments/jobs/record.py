"""The record of a job: what ran, on what, and how it ended; it outlives the cluster it ran on.

CARRIL_HOME/jobs/<submission id>/
    job.json          this record, rewritten whole at every change
    job.log           what the job said, with times
    driver.log        what Ray kept of its output, copied when somebody looks
    run.lock.json     code, data, configuration, seeds, machine
    report.json       the result
"""

import re
import socket
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.home import carril_home
from experiments.jobs.code_state import CodeState
from experiments.jobs.errors import JobError
from experiments.registry.errors import brief
from experiments.whole_file import write_whole

SCHEMA_VERSION = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class JobState(StrEnum):
    """Where a job stands."""

    SUBMITTED = "submitted"
    """Handed to the cluster, not started yet."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    """Asked to stop; its checkpoint is written."""
    KILLED = "killed"
    """Its process is gone without a word. Never stored: seen by looking for the process."""
    UNREADABLE = "unreadable"
    """Its record is damaged, or of a newer version. Never stored."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (JobState.SUBMITTED, JobState.RUNNING)


Kind = Literal["finetune", "evaluate"]


class JobRecord(BaseModel):
    """What is known about one attempt of a job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    submission_id: str
    kind: Kind
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    config: str | None = None
    """Configuration file, as an absolute path."""
    config_sha256: str | None = None
    arguments: tuple[str, ...] = ()
    out: str | None = None
    """Where its results and checkpoints lie."""
    code: CodeState
    host: str | None = None
    pid: int | None = None
    process_created_at: float | None = None
    """Tells the process from a later one with its number (seconds since the epoch)."""
    exit_code: int | None = None
    error: str | None = None
    run_id: str | None = None
    """Its run in the tracking store."""
    tracking_uri: str | None = None

    @property
    def seen_state(self) -> JobState:
        """The state, corrected by a look at the process."""
        if self.state is not JobState.RUNNING or self.host != socket.gethostname():
            return self.state
        return JobState.RUNNING if self._process_lives() else JobState.KILLED

    def _process_lives(self) -> bool:
        if self.pid is None or self.process_created_at is None:
            return False
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.process_created_at) < 1.0
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False


class JobFolder:
    """The folder of one job.

    Args:
        home: `CARRIL_HOME`.
        submission_id: The job.

    Raises:
        JobError: If the id could not be the name of a folder.
    """

    def __init__(self, home: Path, submission_id: str) -> None:
        if not _ID.fullmatch(submission_id):
            raise JobError(f"{submission_id!r} is no job id: letters, digits, '.', '_' and '-'")
        self.path = jobs_dir(home) / submission_id
        self.log_path = self.path / "job.log"
        self.driver_log_path = self.path / "driver.log"
        self.lock_path = self.path / "run.lock.json"
        self.report_path = self.path / "report.json"

    def read(self) -> JobRecord | None:
        """Return the record, None if there is none.

        Raises:
            JobError: If it cannot be read.
        """
        path = self.path / "job.json"
        try:
            return JobRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise JobError(f"{path} cannot be read: {brief(error)}") from error

    def write(self, record: JobRecord) -> None:
        """Write the record; readers see the old or the new one."""
        self.put("job.json", record.model_dump_json(indent=2) + "\n")

    def put(self, name: str, text: str) -> None:
        """Write a file of the folder, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / name, text.encode())


def jobs_dir(home: Path) -> Path:
    """Return the folder of all jobs."""
    return home / "jobs"


def home_dir() -> Path:
    """Return `CARRIL_HOME` as an absolute path: jobs go elsewhere."""
    return carril_home().absolute()


class Unreadable(NamedTuple):
    """A job whose record cannot be used; the others are none the worse."""

    submission_id: str
    error: str


def records(home: Path) -> Iterator[JobRecord | Unreadable]:
    """Yield the records of all jobs, oldest first, behind those that cannot be read.

    Folders without a record are passed over.
    """
    found, unreadable = list[JobRecord](), list[Unreadable]()
    folder = jobs_dir(home)
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not entry.is_dir() or not _ID.fullmatch(entry.name):
            continue
        try:
            record = JobFolder(home, entry.name).read()
        except JobError as error:
            unreadable.append(Unreadable(entry.name, error.message))
            continue
        if record is not None:
            found.append(record)
    yield from unreadable
    yield from sorted(found, key=lambda record: record.created_at)
