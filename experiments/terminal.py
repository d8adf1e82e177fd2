"""What the experiment commands print: tables and JSON on stdout, complaints on stderr."""

import json
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_INFRASTRUCTURE = 3
EXIT_INCONCLUSIVE = 5


def print_table(
    title: str, columns: "Sequence[str]", rows: "Sequence[Sequence[str]]", *, note: str = ""
) -> None:
    """Print a table; wide cells fold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=escape(note) or None)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def cell(value: object, missing: str = "") -> str:
    """Return a value as a table shows it."""
    if value is None:
        return missing
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def print_json(document: object) -> None:
    """Print JSON; a number that is not finite is an error, not a `NaN`."""
    typer.echo(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2))


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Say what is wrong and end with a code."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
