"""The life of one job: record, log, slot, signals, and an end that is always written down."""

import faulthandler
import json
import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from experiments.jobs.code_state import code_state
from experiments.jobs.errors import JobError, JobExit, JobStopped
from experiments.jobs.record import JobFolder, JobRecord, JobState, Kind
from experiments.jobs.trainer_slot import trainer_slot

logger = logging.getLogger(__name__)

_NICENESS = 10
"""Of a job on a cluster: what answers people goes first."""

Report = Mapping[str, Any]


class JobSession:
    """What the body of a job works with.

    Args:
        folder: Its folder.
        record: Its record so far.
        echo: Shows a line to whoever looks on; the log gets it anyway.
    """

    def __init__(self, folder: JobFolder, record: JobRecord, echo: Callable[[str], None]) -> None:
        self.folder = folder
        self.record = record
        self._echo = echo
        self.stop_asked_at: float | None = None
        """When somebody asked the job to stop (seconds since the epoch), None if nobody did."""
        self._deferred = False
        self._ending = False

    @property
    def submission_id(self) -> str:
        """Id of the job."""
        return self.record.submission_id

    @property
    def stop_asked(self) -> bool:
        """Whether somebody asked the job to stop."""
        return self.stop_asked_at is not None

    def say(self, line: str) -> None:
        """Tell something: to the log, with the time, and to whoever looks on."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # A log that has no room left must not keep the job from saying so and ending in order.
        with suppress(OSError), self.folder.log_path.open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {line}\n")
        self._echo(line)

    def update(self, **fields: Any) -> None:
        """Change fields of the record, durably."""
        self.record = self.record.model_copy(update=fields)
        self.folder.write(self.record)

    @contextmanager
    def stopping_at_checkpoints(self) -> Iterator[None]:
        """While this lasts a request to stop waits for the next call of `stop_here`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.stop_here()

    def stop_here(self) -> None:
        """Stop, if that was asked for.

        Raises:
            JobStopped: If it was.
        """
        if self.stop_asked:
            raise JobStopped

    def end(self, state: JobState, code: JobExit, error: str | None) -> None:
        """Write down how it ended; from here on nothing interrupts."""
        self._ending = True
        self.say(f"{state}" + (f": {error}" if error else ""))
        self.update(state=state, ended_at=datetime.now(UTC), exit_code=int(code), error=error)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Take a request to stop; a second one does not wait for a checkpoint."""
        if self._ending:
            return
        again, self.stop_asked_at = self.stop_asked, time.time()
        if self._deferred and not again:
            self.say(f"{signal.Signals(number).name}: stopping after this step, with a checkpoint")
            return
        raise JobStopped


Body = Callable[[JobSession], Report]


def run_job(
    kind: Kind,
    submission_id: str,
    body: Body,
    *,
    home: Path,
    echo: Callable[[str], None],
    nice: bool,
    config: Path | None = None,
    config_sha256: str | None = None,
    arguments: tuple[str, ...] = (),
    out: Path | None = None,
) -> int:
    """Run a job to its end, whatever that is, and return the exit code of the process.

    Args:
        kind: What it does.
        submission_id: Its id; an existing record of it, made when it was submitted, is continued.
        body: Does the work and returns the report.
        home: `CARRIL_HOME`.
        echo: Shows a line to whoever looks on.
        nice: Whether to make way for others on the machine.
        config: Its configuration file.
        config_sha256: Hash of that.
        arguments: Its command line.
        out: Where its results go.

    Raises:
        JobError: If a job of this id runs already, or its record cannot be written.
    """
    folder = JobFolder(home, submission_id)
    earlier = folder.read()
    if earlier is not None and earlier.seen_state is JobState.RUNNING:
        raise JobError(f"{submission_id} runs already (pid {earlier.pid})", JobExit.INFRASTRUCTURE)
    now = datetime.now(UTC)
    record = JobRecord(
        submission_id=submission_id,
        kind=kind,
        state=JobState.RUNNING,
        created_at=earlier.created_at if earlier else now,
        started_at=now,
        config=str(config.absolute()) if config else None,
        config_sha256=config_sha256,
        arguments=arguments,
        out=str(out.absolute()) if out else None,
        code=code_state(),
        host=socket.gethostname(),
        pid=os.getpid(),
        process_created_at=psutil.Process().create_time(),
        run_id=earlier.run_id if earlier else None,
        tracking_uri=earlier.tracking_uri if earlier else None,
    )
    try:
        folder.write(record)
    except OSError as error:
        with suppress(OSError):
            folder.path.rmdir()
        raise JobError(
            f"not started, no record can be written to {folder.path}: {error.strerror}",
            JobExit.INFRASTRUCTURE,
        ) from error
    session = JobSession(folder, record, echo)
    if nice:
        os.nice(max(0, _NICENESS - os.nice(0)))
    started_s = time.monotonic()
    try:
        with _signals(session), _logging_to(folder.log_path), _crashes_to(folder.log_path):
            code, report = _outcome(session, home, body)
        _put_report(session, report, wall_s=round(time.monotonic() - started_s, 1))
    except OSError as error:
        echo(f"how it ended cannot be written to {folder.path}: {error}")
        return int(JobExit.INFRASTRUCTURE)
    return int(code)


def _put_report(session: JobSession, report: Report, *, wall_s: float) -> None:
    record = session.record
    document = {
        "schema_version": 1,
        "submission_id": record.submission_id,
        "kind": record.kind,
        "state": record.state,
        "wall_s": wall_s,
        "error": record.error,
        **report,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    session.folder.put("report.json", text)


def _outcome(session: JobSession, home: Path, body: Body) -> tuple[JobExit, Report]:
    report: Report = {}
    error: str | None = None
    try:
        with trainer_slot(home, session.submission_id):
            session.stop_here()
            report = body(session)
        state, code = JobState.SUCCEEDED, JobExit.OK
    except (JobStopped, KeyboardInterrupt):
        state, code, error = JobState.STOPPED, JobExit.INTERRUPTED, "stopped on request"
    except JobError as failure:
        state, code, error = JobState.FAILED, failure.code, failure.message
    except Exception as failure:
        logger.exception("the job failed")
        state, code, error = JobState.FAILED, JobExit.FAILED, f"{type(failure).__name__}: {failure}"
        session.say("".join(traceback.format_exception(failure)).rstrip())
    session.end(state, code, error)
    return code, report


@contextmanager
def _signals(session: JobSession) -> Iterator[None]:
    handled = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, session.on_signal) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Have what modules log in the job's log as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):
            handler.close()


@contextmanager
def _crashes_to(path: Path) -> Iterator[None]:
    """Have native code that crashes leave its stack in the log that is kept."""
    if faulthandler.is_enabled():
        yield
        return
    with path.open("a", encoding="utf-8") as log:
        faulthandler.enable(file=log)
        try:
            yield
        finally:
            faulthandler.disable()
