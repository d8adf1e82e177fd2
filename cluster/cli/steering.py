"""What the commands share that move a split: `carril canary` and `carril exp adapt`."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cluster.cli.console import note, out, print_json, warn
from cluster.errors import CommandError, ExitCode
from cluster.home import carril_home

if TYPE_CHECKING:
    from cluster.steering.controller import SplitController
    from experiments.steering.journal import DecisionJournal, Kept
    from experiments.steering.records import Decided

DEFAULT_CONFIG = Path("serve_config.yaml")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Experiment.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="Serve config that is served.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OnceOption = Annotated[bool, typer.Option("--once", help="Decide once and end.")]
ReplayOption = Annotated[
    bool, typer.Option("--replay", help="Decide every record again; exit 1 if one differs.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds for the gateways to take a split.")
]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

J = TypeVar("J", bound="DecisionJournal[Any, Any, Any]")
C = TypeVar("C", bound="SplitController[Any, Any, Any]")


def journal_of(kind: type[J], name: str) -> J:
    """Return the folder of an experiment's controller."""
    if not _NAME.fullmatch(name):
        raise CommandError(f"{name!r} is no name of an experiment", code=ExitCode.USAGE)
    return kind(carril_home(), name)


@contextmanager
def told() -> Iterator[None]:
    """Turn errors of journal and log into those of the command."""
    from experiments.analysis.errors import AnalysisError
    from experiments.steering.errors import SteeringError

    try:
        yield
    except SteeringError as error:
        raise CommandError(error.message, error.fix) from error
    except AnalysisError as error:
        raise CommandError(str(error)) from error


@contextmanager
def controlled(
    kind: type[C],
    journal: "DecisionJournal[Any, Any, Any]",
    config: Path,
    events: Path | str,
    *,
    timeout_s: float,
    tell: Callable[[Any, Any], None],
) -> Iterator[C]:
    """Yield a controller of what is served; no other one works on the journal meanwhile."""
    from cluster.connection import resolve
    from cluster.serve_api import ServeApi
    from cluster.steering.server import Server

    connection = resolve(guess=False)
    with (
        told(),
        journal.locked(),
        ServeApi(connection.dashboard_url, token=connection.token) as api,
    ):
        server = Server(config, api, http_url=connection.http_url, timeout_s=timeout_s)
        yield kind(journal, server, events, tell=tell)


def print_status(title: str, document: Mapping[str, object]) -> None:
    """Print where a controller stands."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("", overflow="fold")
    for key, value in document.items():
        table.add_row(key.replace("_", " "), str(value))
    out.print(table)


def print_history(
    journal: "DecisionJournal[Any, Any, Any]",
    row_of: Callable[[Any], dict[str, Any]],
    head_of: Callable[[Mapping[str, Any]], str],
    faults: Callable[[Sequence[Any]], list[str]] | None,
    *,
    as_json: bool,
) -> None:
    """Print every decision, and end the command.

    Args:
        journal: Where they are.
        row_of: Makes a document of a record.
        head_of: Makes the first line of a document.
        faults: Decides all of them again; None if that is not asked for.
        as_json: Whether to print JSON.
    """
    from experiments.steering.journal import end_faults

    with told():
        state = journal.require()
        kept = journal.records()
        rows = [row_of(item) for item in kept]
    found = None if faults is None else faults(kept) + end_faults(state, kept)
    if as_json:
        print_json({"decisions": rows} | ({} if found is None else {"faults": found}))
    else:
        for row in rows:
            line = f"{head_of(row)}\n  {row['why']}\n  {row['evidence']}"
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    for fault in found or ():
        warn(fault)
    if found == []:
        note(f"{len(kept)} decisions follow from their evidence")
    raise typer.Exit(int(ExitCode.FAILED if found else ExitCode.OK))


def base_row(kept: "Kept[Any]") -> dict[str, Any]:
    """Return what is told of every decision."""
    decision = kept.record.decision
    return {
        "at": shown(kept.record.observation.at),
        "action": decision.action.value,
        "percent": decision.percent,
        "why": why(decision),
        "evidence": str(kept.path),
    }


def last_decision(kept: "Sequence[Kept[Any]]") -> dict[str, Any]:
    """Return what a status tells of the last decision."""
    last = kept[-1].record.decision if kept else None
    return {
        "last_decision": last.action.value if last else None,
        "why": why(last) if last else "",
        "evidence": str(kept[-1].path) if kept else None,
    }


def why(decision: "Decided") -> str:
    """Return the reasons in one line."""
    return "; ".join(f"{reason.code.value}: {reason.detail}" for reason in decision.reasons)


def shown(at: float) -> str:
    """Return a moment for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
