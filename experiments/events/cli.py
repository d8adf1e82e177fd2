"""`carril events status|migrate|ship|export|prune`: upkeep of the event log, from a terminal.

Heavy imports happen inside the commands, so that `carril --help` is quick. Exit codes: 0 ok, 2
usage, 3 the events or the database cannot be used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.terminal import EXIT_INFRASTRUCTURE, fail, print_json, print_table

if TYPE_CHECKING:
    from experiments.events.central import CentralStore

events_app = typer.Typer(
    name="events",
    help="Look after the event log: status, migrate, ship, export, prune.",
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
_STAYS = {
    "declared": "it is declared",
    "young": "it has younger events",
    "unshipped": "the central database does not have all of it (--unshipped deletes it anyhow)",
}
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@events_app.command()
def status(events: EventsOption = None, as_json: JsonOption = False) -> None:
    """Show what the log has, and how far the central database is behind."""
    from experiments.events.log_status import log_status

    source = _source(events)
    with _usable():
        found = log_status(source)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['events']}  schema {found['schema_version']}, {found['bytes']:,} bytes")
    rows = [
        [table["name"], f"{table['rows']:,}", table["first_at"] or "", table["last_at"] or ""]
        for table in found["tables"]
    ]
    print_table("", ["table", "rows", "first", "last"], rows)
    if found["spool_files"]:
        typer.echo(f"spool files that wait to be collected: {found['spool_files']}")
    for one in found["shipments"]:
        waiting = "" if one["waiting"] is None else f", {one['waiting']:,} wait"
        typer.echo(f"{one['party']}: up to {one['seq']:,} at {one['shipped_at']}{waiting}")


@events_app.command()
def migrate(events: EventsOption = None) -> None:
    """Bring the tables to this version, and make them where there are none.

    Servers do this by themselves when they start: needed only to prepare a central database, or to
    read an old file without serving.
    """
    from experiments.events.databases import is_address, name_of
    from experiments.events.schema import migrate as migrate_file

    source = _source(events)
    with _usable():
        if is_address(source):
            central = _central(source)
            changed = central.migrate()
            central.close()
        elif events is not None and not Path(source).is_file():
            fail(f"--events {source!r} is no file")
        else:
            from experiments.events.store import EventStore

            existing = Path(source).is_file()
            changed = migrate_file(Path(source)) if existing else True
            EventStore(Path(source)).close()
    typer.echo(f"{name_of(source)}: {'brought forward' if changed else 'nothing to do'}", err=True)


@events_app.command()
def ship(
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            envvar="CARRIL_EVENTS_URL",
            help="postgresql://user@host:port/database; password in PGPASSWORD or PGPASSFILE.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until interrupted.")] = False,
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="Send everything again; what is there stays as it is."),
    ] = False,
    events: Annotated[
        Path | None,
        typer.Option("--events", help="Event file; CARRIL_HOME/events/events.db by default."),
    ] = None,
) -> None:
    """Send events to a central PostgreSQL: at least once, with the effect of once.

    A server does it by itself where the gateway's user_config has `events.ship_to`.
    """
    import threading

    from experiments.events.shipping import Shipper

    if to is None:
        fail("where to? give --to postgresql://user@host/database, or set CARRIL_EVENTS_URL")
    path = Path(_source(None if events is None else str(events)))
    with _usable():
        if not path.is_file():
            fail(f"no events: {str(path)!r} does not exist", EXIT_INFRASTRUCTURE)
        _check_current(path)
        central = _central(to)
        shipper = Shipper(path, central)
        total = shipper.ship(
            from_start=from_start, moved=lambda n: typer.echo(f"{n:,} events", err=True)
        )
        typer.echo(f"{total:,} events to {central.name}; it has all of {path}", err=True)
        if follow:
            shipper.follow(threading.Event())
        central.close()


@events_app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    format_: Annotated[str, typer.Option("--format", help="parquet is what there is.")] = "parquet",
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only this table; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Events from this moment on, such as 2026-01-31 (UTC).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Events before this moment.")] = None,
    events: EventsOption = None,
) -> None:
    """Write the log as Parquet, a file per table; captured texts only with --table transcripts."""
    from experiments.events.databases import opened
    from experiments.events.export import TIME_OF, export_parquet

    if format_ != "parquet":
        fail(f"--format {format_!r} is unknown; there is: parquet")
    names = table or [name for name in TIME_OF if name != "transcripts"]
    for name in names:
        if name not in TIME_OF:
            fail(f"there is no table {name!r}; there are: {', '.join(TIME_OF)}")
    window = [None if text is None else _moment(text) for text in (since, until)]
    with _usable(), opened(_source(events)) as engine:
        written = export_parquet(
            engine,
            out,
            names,
            since=window[0],
            until=window[1],
            told=lambda name, n: typer.echo(f"{name}: {n:,} rows", err=True),
        )
    for file in written:
        typer.echo(f"{file.path}\t{file.n_rows}")


@events_app.command()
def prune(
    before: Annotated[
        str, typer.Option(help="Delete what ended before this moment, such as 2026-01-31 (UTC).")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    unshipped: Annotated[
        bool,
        typer.Option("--unshipped", help="Also events that the central database does not have."),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Configuration whose experiments stay; the deployed one by default."
        ),
    ] = None,
    events: EventsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete old events.

    An experiment goes as a whole, once it is not declared any more and nothing of it is younger.
    Feedback stays with the answer or session that it is about. The file keeps its size; the space
    is used again.
    """
    from experiments.analysis.errors import AnalysisError
    from experiments.analysis.sources import config_file, declared_in, gateway_sections
    from experiments.events.databases import opened
    from experiments.events.retention import plan
    from experiments.events.retention import prune as delete

    limit = _moment(before)
    if limit > datetime.now(UTC).timestamp():
        fail(f"--before {before} lies in the future")
    try:
        found = config_file(config)
        sections = gateway_sections(found)
        declared = {(name, one.version) for name, one in declared_in(sections, found).items()}
    except AnalysisError as error:
        fail(str(error))
    if found is None:
        typer.echo(
            "note: no configuration here, so no experiment is declared; --config FILE names one",
            err=True,
        )
    logs = [section.get("events") for section in sections]
    ships = any(isinstance(log, dict) and log.get("ship_to") for log in logs)
    with _usable(), opened(_source(events), writing=True) as engine:
        what = plan(engine, before=limit, declared=declared, unshipped=unshipped, ships=ships)
        gone = delete(
            engine,
            what,
            before=limit,
            dry_run=dry_run,
            told=lambda name, n: typer.echo(f"{name}: {n:,} rows", err=True),
        )
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "experiments": [{"experiment": n, "version": v} for n, v in what.experiments],
                "kept": [kept._asdict() for kept in what.kept],
                "shipped_up_to": what.shipped_up_to,
                "rows": {one.table: one.n_rows for one in gone},
            }
        )
        return
    for name, version in what.experiments:
        typer.echo(f"{name} (version {version}): {'would go' if dry_run else 'deleted'}")
    for kept in what.kept:
        typer.echo(f"{kept.experiment} (version {kept.version}) stays: {_STAYS[kept.reason]}")
    for one in gone:
        typer.echo(f"{one.table}: {one.n_rows:,} rows")


def _source(given: str | None) -> str:
    if given is not None:
        return given
    return str(Path(os.environ.get("CARRIL_HOME") or "var") / "events" / "events.db")


def _central(address: str) -> "CentralStore":
    from experiments.events.central import CentralStore, server_url

    return CentralStore(server_url(address))


def _check_current(path: Path) -> None:
    """End with a word if a file is of another version."""
    from experiments.events.databases import opened

    with opened(str(path)):
        pass


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{text!r} is no moment; write 2026-01-31 or 2026-01-31T12:00:00")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@contextmanager
def _usable() -> Iterator[None]:
    """Turn what is wrong with events and databases into one line and exit code 3."""
    import sqlite3

    from experiments.events.central import CentralError
    from experiments.events.databases import EventsError

    try:
        yield
    except (CentralError, EventsError) as error:
        fail(str(error), EXIT_INFRASTRUCTURE)
    except (sqlite3.Error, OSError, ValueError) as error:
        fail(f"the events cannot be used: {error}", EXIT_INFRASTRUCTURE)
