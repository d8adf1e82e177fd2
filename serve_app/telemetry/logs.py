"""JSON logs, one rotated file per process under `CARRIL_HOME/logs`.

A record has time, level, logger, message, and whatever was given as `extra`: request id, variant,
token counts, durations. Prompts, answers and session ids are never logged.
"""

import logging
import logging.handlers
import os
import re
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from pythonjsonlogger.orjson import OrjsonFormatter

_MAX_BYTES = 20 * 2**20
_BACKUPS = 5
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
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8"
    )
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
        trace_id = TRACE_ID.get()
        if trace_id:
            log_data["trace_id"] = trace_id
