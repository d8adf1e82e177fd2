"""`carril feedback analyze|export|report`: what users said, from a terminal.

Heavy imports happen inside the commands, so that `carril --help` is quick. Exit codes: 0 ok, 2
usage, 3 the events cannot be read.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.terminal import (
    EXIT_INFRASTRUCTURE,
    console,
    fail,
    moment,
    print_json,
    print_table,
    tell_waiting_spool,
)
from experiments.whole_file import opened_whole

if TYPE_CHECKING:
    from experiments.events.votes import Window
    from experiments.feedback.analysis import Analysis
    from experiments.feedback.tables import Section

feedback_app = typer.Typer(
    name="feedback",
    help="Analyse, export and report what users said.",
    no_args_is_help=True,
    add_completion=False,
)

EventsOption = Annotated[
    str | None,
    typer.Option(
        "--events",
        metavar="FILE|URL",
        help="Event file, or postgresql:// address; CARRIL_HOME/events/events.db by default.",
    ),
]
SinceOption = Annotated[
    str | None, typer.Option(help="Votes from this moment on, such as 2026-01-31 (UTC).")
]
UntilOption = Annotated[str | None, typer.Option(help="Votes before this moment.")]


ControlOption = Annotated[
    str, typer.Option("--control", help="Variant that the others are compared with.")
]


@feedback_app.command()
def analyze(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    control: ControlOption = "stable",
    events: EventsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Show weak intents, categories, hallucination patterns, and every metric per variant."""
    from experiments.feedback.tables import headline, sections, to_json

    analysis = _analysis(control, events, since, until)
    if as_json:
        print_json(to_json(analysis))
        return
    _print_headline(headline(analysis))
    for section in sections(analysis):
        _print_section(section)


@feedback_app.command()
def report(
    out: Annotated[Path, typer.Option("--out", help="Folder for report.md and report.html.")],
    control: ControlOption = "stable",
    events: EventsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Write the analysis as report.md, report.html (self-contained) and report.json."""
    from experiments.feedback.pages import to_html, to_markdown
    from experiments.feedback.tables import headline, sections, to_json

    analysis = _analysis(control, events, since, until)
    head, tables = headline(analysis), sections(analysis)
    title = "What users said"
    pages = {
        "report.md": to_markdown(title, head, tables),
        "report.html": to_html(title, head, tables),
        "report.json": json.dumps(to_json(analysis), ensure_ascii=False, allow_nan=False, indent=2)
        + "\n",
    }
    for name, text in pages.items():
        with _whole_file(out / name) as file:
            file.write(text)
        typer.echo(str(out / name))


@feedback_app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write; - for stdout.")],
    positive: Annotated[
        bool, typer.Option("--positive", help="Praised answers as training conversations.")
    ] = False,
    episodes: Annotated[bool, typer.Option("--episodes", help="Votes on sessions, too.")] = False,
    events: EventsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Write feedback as JSONL, one line per answer, for review and retraining.

    Texts are there only where capture was on (gateway `capture.text`), without personal data.
    """
    from experiments.events.votes import read_votes
    from experiments.feedback.export import feedback_lines, training_lines

    if positive and episodes:
        fail("--positive is about answers, --episodes about sessions; give one")
    source = _source(events)
    if positive and isinstance(source, str):
        fail("texts of answers stay on the nodes: use --positive there, on their event files")
    with _readable():
        votes = read_votes(source, _window(since, until))
        lines = training_lines(votes) if positive else feedback_lines(votes, episodes=episodes)
        n_lines = _write_lines(out, lines)
    where = "stdout" if str(out) == "-" else str(out)
    typer.echo(f"{n_lines} {'conversations' if positive else 'records'} to {where}", err=True)
    if positive and not n_lines:
        typer.echo(
            "Training needs the text of praised answers: set capture.text to 'feedback' in the "
            "gateway's user_config",
            err=True,
        )


def _analysis(control: str, events: str | None, since: str | None, until: str | None) -> "Analysis":
    from experiments.events.votes import read_votes
    from experiments.feedback.analysis import Settings
    from experiments.feedback.analysis import analyze as analyse

    with _readable():
        votes = read_votes(_source(events), _window(since, until))
        return analyse(votes, Settings(control=control))


def _print_headline(head: "Sequence[tuple[str, str]]") -> None:
    for name, value in head:
        typer.echo(f"{name + ':':<20}{value}")


def _print_section(section: "Section") -> None:
    from rich.markup import escape

    console().print()
    if not section.rows:
        console().print(f"[bold]{escape(section.title)}[/]: {escape(section.empty)}")
        return
    keep = [i for i, name in enumerate(section.columns) if name]  # bars are for pages
    columns = [section.columns[i] for i in keep]
    rows = [[str(row[i]) for i in keep] for row in section.rows]
    print_table(section.title, columns, rows, note=section.note)


def _source(given: str | None) -> Path | str:
    """Return the events to read, with a word on stderr if they are not all."""
    from experiments.analysis.sources import event_source

    path = event_source(given)
    if isinstance(path, str):
        return path
    if given is not None:
        if not path.is_file():
            fail(f"--events {given!r} is no file")
        return path
    if not path.is_file():
        typer.echo(f"no events yet: {path} does not exist", err=True)
    tell_waiting_spool(path)
    return path


def _window(since: str | None, until: str | None) -> "Window":
    from experiments.events.votes import Window

    window = Window()
    if since is not None:
        window = window._replace(since=moment("--since", since))
    if until is not None:
        window = window._replace(until=moment("--until", until))
    if window.since >= window.until:
        fail(f"--since {since} is not before --until {until}")
    return window


@contextmanager
def _readable() -> Iterator[None]:
    from experiments.events.votes import EventFileError

    try:
        yield
    except EventFileError as error:
        fail(str(error), EXIT_INFRASTRUCTURE)


def _write_lines(out: Path, lines: Iterable[dict[str, Any]]) -> int:
    if str(out) == "-":
        return _dump(sys.stdout, lines)
    with _whole_file(out) as file:
        return _dump(file, lines)


def _dump(file: Any, lines: Iterable[dict[str, Any]]) -> int:
    n_lines = 0
    for line in lines:
        file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        n_lines += 1
    return n_lines


@contextmanager
def _whole_file(path: Path) -> Iterator[Any]:
    """Open a file that appears under its name only when it is complete. Only the owner reads it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened_whole(path, mode=0o600) as file:
            text = TextIOWrapper(file, "utf-8")
            try:
                yield text
            finally:
                text.detach()  # what is left in it is written
    except OSError as error:
        fail(f"{str(path)!r} cannot be written: {error.strerror}")
