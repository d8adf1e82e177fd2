"""What commands print and take: tables and JSON on stdout, complaints on stderr."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from experiments.home import waiting_spool_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_INFRASTRUCTURE = 3
EXIT_AUTH = 4
EXIT_INCONCLUSIVE = 5

_LOG_WIDTH = 140
"""Columns of a table that goes to a file or a log: nobody's window is narrow there."""


def print_table(
    title: str, columns: "Sequence[str]", rows: "Sequence[Sequence[str]]", *, note: str = ""
) -> None:
    """Print a table; wide cells fold."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", caption=escape(note) or None)
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def console() -> "Console":
    """Return where tables go: as wide as the window, wide where there is none."""
    from rich.console import Console

    found = Console()
    if not found.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=_LOG_WIDTH)
    return found


def cell(value: object, missing: str = "") -> str:
    """Return a value as a table shows it."""
    if value is None:
        return missing
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def print_json(document: object) -> None:
    """Print JSON; a number that is not finite is an error, not a `NaN`."""
    typer.echo(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2))


def tell_waiting_spool(events: Path) -> None:
    """Say so if events wait outside the event file; they are not counted."""
    waiting = waiting_spool_files(events)
    if waiting:
        typer.echo(
            f"{len(waiting)} spool files wait to be collected, which a running server does; what "
            "is in them is not counted",
            err=True,
        )


def moment(option: str, text: str) -> float:
    """Return a moment that was given, UTC unless it says otherwise, in seconds since the epoch."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{option} is {text!r}; write 2026-01-31 or 2026-01-31T08:00:00+00:00")
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()


def fail(message: str, code: int = EXIT_USAGE, *, fix: str | None = None) -> NoReturn:
    """Say what is wrong, and what to do about it if anything, and end with a code."""
    typer.echo(f"error: {message}", err=True)
    if fix:
        typer.echo(f"  -> {fix}", err=True)
    raise typer.Exit(code)
