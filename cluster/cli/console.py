"""What every command prints with: data on stdout, messages and progress on stderr."""

import json
import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from rich.console import Console
from rich.markup import escape
from rich.status import Status

out = Console()
"""Data. Rich drops colour where stdout is no terminal or NO_COLOR is set."""
err = Console(stderr=True)
"""Messages, progress, errors."""


def print_json(value: object) -> None:
    """Write one JSON document to stdout, without colour or wrapping."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def note(text: str) -> None:
    """Write a message."""
    err.print(escape(text), highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Write a warning."""
    err.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


def fail(message: str, fix: str | None = None) -> None:
    """Write an error, and on a line of its own what to do about it."""
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    if fix:
        err.print(f"  [dim]->[/] {escape(fix)}", highlight=False, soft_wrap=True)


def command_name() -> str:
    """Return how the user can call carril again: by name if it is on the PATH, else by path."""
    own = Path(sys.argv[0])
    if own.name != "carril" or shutil.which("carril") == str(own.absolute()):
        return "carril"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


class _Warnings(logging.Handler):
    """Shows what is logged as warnings of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


@contextmanager
def watched(logger: str) -> Iterator[Event]:
    """Show a controller's log as warnings; yield what SIGTERM sets, so that it can end in order."""
    stop = Event()
    handler = _Warnings()
    logging.getLogger(logger).addHandler(handler)
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
        logging.getLogger(logger).removeHandler(handler)


class Step:
    """A step whose progress shows as a spinner, or off a terminal as a line per change."""

    def __init__(self, title: str, status: Status | None) -> None:
        self._title = title
        self._status = status
        self._shown = ""

    def update(self, detail: str) -> None:
        """Show what is being waited for."""
        if detail == self._shown:
            return
        self._shown = detail
        text = f"{self._title}: {detail}"
        if self._status is not None:
            self._status.update(escape(text))
        else:
            note(text)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Show that something takes time."""
    if err.is_terminal and not err.is_dumb_terminal:
        with err.status(escape(title)) as status:
            yield Step(title, status)
    else:
        note(f"{title} ...")
        yield Step(title, None)
