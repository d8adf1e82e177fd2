"""`carril exp ls|show|report`, and what `decide NAME` needs: experiments from the event log.

Imports of numpy, pydantic and the analysis happen inside the commands, so that `carril --help` is
quick. Exit codes: 0 ok, 1 the data allows no analysis, 2 usage, 3 the log cannot be read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from experiments.terminal import (
    EXIT_INFRASTRUCTURE,
    EXIT_REFUSED,
    EXIT_USAGE,
    fail,
    print_json,
    print_table,
    tell_waiting_spool,
)

if TYPE_CHECKING:
    from experiments.analysis.report.tables import Table
    from experiments.analysis.result import Analysis

EventsOption = Annotated[
    str | None,
    typer.Option(
        "--events",
        metavar="FILE|URL",
        help="Event file, or postgresql:// address; CARRIL_HOME/events/events.db by default.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Serve config that declares the experiment; by default what the gateway runs now.",
    ),
]
ControlOption = Annotated[
    str | None,
    typer.Option("--control", help="Reference variant of an experiment that is not declared."),
]
TreatmentOption = Annotated[
    str | None, typer.Option("--treatment", help="Which treatment, if there are several.")
]
VersionOption = Annotated[
    int | None, typer.Option("--version", help="Version; the declared one by default.")
]
PhaseOption = Annotated[
    int | None, typer.Option("--phase", help="Phase, from 1; the latest by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Experiment.")]


Track = Callable[["Analysis", str], None]
"""Records an analysis and its page somewhere; the command line of the cluster hands one in."""


class Choice(NamedTuple):
    """What to analyse, and where it is."""

    name: str
    events: str | None
    config: Path | None
    control: str | None
    treatment: str | None
    version: int | None
    phase: int | None


def add_commands(app: typer.Typer) -> None:
    """Add `ls`, `show` and `report` to `carril exp`."""
    app.command("ls")(list_experiments)
    app.command("show")(show)
    app.command("report")(report)


def list_experiments(
    events: EventsOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List experiments, declared or only in the log, with their units."""
    from experiments.analysis.overview import overview
    from experiments.analysis.sources import declarations, event_source

    with refusals():
        rows = overview(event_source(events), declarations(config))
    if as_json:
        print_json({"experiments": rows})
        return
    print_table(
        "Experiments",
        ["experiment", "version", "declared", "split", "units", "first", "last"],
        [
            [
                str(row["experiment"]),
                str(row["version"]),
                "yes" if row["declared"] else "no",
                ", ".join(f"{v} {100 * s:g} %" for v, s in row["split"].items()),
                ", ".join(f"{v} {n:,}" for v, n in row["units"].items()) or "none yet",
                row["first_exposure_at"] or "",
                row["last_exposure_at"] or "",
            ]
            for row in rows
        ],
    )


def show(
    name: NameArgument,
    events: EventsOption = None,
    config: ConfigOption = None,
    control: ControlOption = None,
    treatment: TreatmentOption = None,
    version: VersionOption = None,
    phase: PhaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show health, verdict so far and metrics of an experiment."""
    from experiments.analysis.report.document import to_document

    analysis = analysed(Choice(name, events, config, control, treatment, version, phase))
    if as_json:
        print_json(to_document(analysis))
    else:
        print_analysis(analysis)


def report(
    context: typer.Context,
    name: NameArgument,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    events: EventsOption = None,
    config: ConfigOption = None,
    control: ControlOption = None,
    treatment: TreatmentOption = None,
    version: VersionOption = None,
    phase: PhaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report of an experiment as one self-contained HTML page.

    Where MLflow is installed the analysis becomes a run there, with page and evidence;
    CARRIL_TRACKING=off leaves it alone.
    """
    from experiments.analysis.conversations import read_conversations
    from experiments.analysis.report.document import to_document
    from experiments.analysis.report.page import to_html
    from experiments.analysis.sources import event_source

    choice = Choice(name, events, config, control, treatment, version, phase)
    analysis = analysed(choice, slices=True)
    with refusals():
        said = read_conversations(event_source(events), analysis)
    page = to_html(analysis, said)
    write_file(out, page)
    if context.obj is not None:
        track: Track = context.obj
        track(analysis, page)
    if as_json:
        print_json(to_document(analysis))
    else:
        print_analysis(analysis)
    typer.echo(f"report: {out}", err=True)


def analysed(choice: Choice, *, slices: bool = False) -> "Analysis":
    """Return the analysis of an experiment, or end the command with the reason."""
    from experiments.analysis.run import Options, analyse
    from experiments.analysis.sources import declaration_of, declarations, event_source

    with refusals():
        found = declaration_of(choice.name, declarations(choice.config), control=choice.control)
        options = Options(
            version=choice.version, treatment=choice.treatment, phase=choice.phase, slices=slices
        )
        path = event_source(choice.events)
        if isinstance(path, Path):
            tell_waiting_spool(path)
        return analyse(path, choice.name, found.declaration, options, declared=found.own)


def print_analysis(analysis: "Analysis") -> None:
    """Print health first, then the verdict with its reasons, then the metrics."""
    from experiments.analysis.report import tables

    _print(tables.health(analysis))
    for conflict in analysis.evidence.health.conflicts:
        typer.echo(f"INVALID: {conflict}")
    for note in analysis.notes:
        typer.echo(f"note: {note}")
    print_verdict(analysis)
    _print(tables.metrics(analysis))
    if analysis.slices:
        _print(tables.slices(analysis))


def print_verdict(analysis: "Analysis") -> None:
    """Print verdict, reasons and what is missing."""
    decision = analysis.decision
    typer.echo(f"\n{decision.verdict.value}  {decision.experiment}")
    for reason in decision.reasons:
        where = f" {reason.metric}:" if reason.metric else ""
        typer.echo(f"  {reason.code.value}{where} {reason.detail}".rstrip())
    if decision.score is not None and decision.is_valid:
        typer.echo(f"  score (breaks shown ties only): {decision.score.arithmetic}")
    if decision.units_left:
        days = "" if decision.days_left is None else f", about {decision.days_left} days"
        typer.echo(f"  {decision.units_left:,} units left{days}")
    typer.echo("")


def _print(table: "Table") -> None:
    print_table(table.title, list(table.columns), [list(r) for r in table.rows], note=table.note)


@contextmanager
def refusals() -> Iterator[None]:
    """End the command with a clear word where there is nothing to analyse."""
    from experiments.analysis.errors import AnalysisError, NothingToCompare, UnreadableLog
    from experiments.stats.errors import StatisticsError

    try:
        yield
    except UnreadableLog as error:
        fail(str(error), EXIT_INFRASTRUCTURE)
    except NothingToCompare as error:
        fail(str(error), EXIT_REFUSED)
    except AnalysisError as error:
        fail(str(error), EXIT_USAGE)
    except StatisticsError as error:
        fail(f"the log has impossible numbers: {error}", EXIT_REFUSED)


def write_file(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all; end the command if it cannot be written."""
    from experiments.whole_file import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        fail(f"{str(path)!r} cannot be written: {error.strerror}")
