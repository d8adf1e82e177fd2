"""JSON logs, one rotated file per process under `CARRIL_HOME/logs`.

A record has time, level, logger, message, and whatever was given as `extra`: request id, variant,
token counts, durations. Prompts, answers and session ids are never logged.

Records below WARNING are formatted and written by a thread a moment later, so that no request waits
for a disk; a process that is killed loses the last of them. Warnings are in the file at once, with
all that came before them.
"""

import logging
import logging.handlers
import os
import re
import threading
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

_MAX_BYTES = 20 * 2**20
_BACKUPS = 5
_LINGER_S = 0.2
"""How long a record below WARNING may wait for others, to be written with them."""
_MAX_WAITING = 1000
"""Records that may wait; the one above that writes them all itself."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LOGGERS = ("serve_app", "experiments")

TRACE_ID: ContextVar[str] = ContextVar("carril_trace_id", default="")
"""Trace of the request that is being worked on; its records carry it. Empty while there is none."""


def carril_home() -> Path:
    """Return the directory of everything written at run time."""
    return Path(os.environ.get("CARRIL_HOME", "var")).absolute()


def configure_logging(component: str, *, level: str | None = None) -> Path:
    """Send this process's records to a file of its own.

    Args:
        component: Name of the process, for the file name.
        level: Standard level name; None takes `CARRIL_LOG_LEVEL`, INFO by default.

    Returns:
        The log file.
    """
    directory = carril_home() / "logs"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{_UNSAFE.sub('_', component)}.jsonl"
    handler = _BatchedFile(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8")
    handler.setFormatter(_Formatter("%(levelname)s %(name)s %(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if isinstance(h, type(handler))]:
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
        logger.setLevel((level or os.environ.get("CARRIL_LOG_LEVEL", "INFO")).upper())
    return path


class _Formatter(OrjsonFormatter):  # type: ignore[misc]  # the library has no types
    def add_fields(
        self,
        log_data: dict[str, object],
        record: logging.LogRecord,
        message_dict: dict[str, object],
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["at"] = datetime.fromtimestamp(record.created, UTC).isoformat()
        log_data["pid"] = record.process


class _BatchedFile(logging.handlers.RotatingFileHandler):
    """Writes records that are in no hurry together: one look at the size, one write, one flush."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # those of the base class
        self._waiting: deque[logging.LogRecord] = deque()
        self._due = threading.Event()
        self._closing = threading.Event()
        super().__init__(*args, **kwargs)
        threading.Thread(target=self._write_forever, name="log-writer", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; the caller holds the handler's lock."""
        trace_id = TRACE_ID.get()
        if trace_id:  # the thread that formats the record has another context
            record.trace_id = trace_id
        self._waiting.append(record)
        if record.levelno >= logging.WARNING or len(self._waiting) > _MAX_WAITING:
            self._write()
        elif not self._due.is_set():
            self._due.set()

    def flush(self) -> None:
        """Write everything that waits."""
        self.acquire()
        try:
            self._write()
        finally:
            self.release()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._closing.set()
        self._due.set()
        self.flush()
        super().close()

    def _write(self) -> None:
        lines: list[str] = []
        while self._waiting:
            record = self._waiting.popleft()
            try:
                lines.append(self.format(record) + self.terminator)
            except Exception:  # what cannot be formatted must not take the others with it
                self.handleError(record)
        try:
            while lines:
                self._write_some(lines)
        except (OSError, ValueError) as error:  # a full disk, say; never the request's problem
            self.handleError(logging.makeLogRecord({"msg": f"log not written: {error}"}))

    def _write_some(self, lines: list[str]) -> None:
        """Move lines from the list to the file, as many as fit into it, and one at least."""
        if self.stream is None:
            self.stream = self._open()
        self.stream.seek(0, os.SEEK_END)
        room = self.maxBytes - self.stream.tell()
        fitting = 0
        while fitting < len(lines) and (room := room - len(lines[fitting].encode())) >= 0:
            fitting += 1
        if fitting == 0 and self.stream.tell() > 0:
            self.doRollover()
            return
        self.stream.write("".join(lines[: max(1, fitting)]))
        self.stream.flush()
        del lines[: max(1, fitting)]

    def _write_forever(self) -> None:
        while not self._closing.is_set():
            self._due.wait()
            self._closing.wait(_LINGER_S)
            self._due.clear()
            self.flush()
