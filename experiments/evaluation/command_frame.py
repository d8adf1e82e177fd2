"""What commands of evaluations share: a progress bar, and refusals as messages and exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from experiments.terminal import EXIT_AUTH, EXIT_INFRASTRUCTURE, fail

if TYPE_CHECKING:
    from experiments.evaluation.launch import OnProgress, OnStage


@contextmanager
def progress() -> Iterator[tuple["OnStage", "OnProgress"]]:
    """Show a bar with the time left on stderr; off a terminal, a line for every tenth."""
    from experiments.evaluation.line_progress import LineProgress

    if not sys.stderr.isatty():
        yield _note, LineProgress("evaluating", _note).update
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield console.print, lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what evaluations refuse into messages and exit codes."""
    from experiments.evaluation.errors import EvaluationError, TargetDenied, TargetUnavailable

    try:
        yield
    except TargetDenied as err:
        fail(err.message, EXIT_AUTH, fix=err.fix)
    except TargetUnavailable as err:
        fail(err.message, EXIT_INFRASTRUCTURE, fix=err.fix)
    except EvaluationError as err:
        fail(err.message, fix=err.fix)
    except OSError as err:
        fail(f"Cannot write the results: {err}", EXIT_INFRASTRUCTURE)


def _note(text: str) -> None:
    typer.echo(text, err=True)
