"""What an event log has, for people and machines."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, literal_column, select, text

from experiments.events import tables
from experiments.events.databases import is_address, name_of, opened
from experiments.events.export import TIME_OF
from experiments.events.lag import Lag, lags
from experiments.events.records import SCHEMA_VERSION
from experiments.home import waiting_spool_files


def log_status(source: str) -> dict[str, Any]:
    """Return size, rows and times per table, and how far destinations or nodes have come.

    Args:
        source: Path of an event file, or address of the central database.

    Raises:
        EventsError: If the events cannot be used.
    """
    with opened(source) as engine, engine.connect() as db:
        found = [_table(db, name, time) for name, time in TIME_OF.items()]
        nodes = db.execute(select(tables.shipments).order_by(tables.shipments.c.party)).all()
        size = (
            int(db.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
            if is_address(source)
            else sum(path.stat().st_size for path in _files(Path(source)))
        )
    shipments = (
        # What a node has not sent yet, only the node knows.
        [Lag(row.party, row.seq, row.shipped_at, None) for row in nodes]
        if is_address(source)
        else lags(Path(source))
    )
    spool = [] if is_address(source) else waiting_spool_files(Path(source))
    return {
        "events": name_of(source),
        "schema_version": SCHEMA_VERSION,
        "bytes": size,
        "tables": found,
        "spool_files": len(spool),
        "shipments": [
            {
                "party": one.destination,
                "seq": one.seq,
                "shipped_at": _moment(one.shipped_at),
                "waiting": one.n_waiting,
            }
            for one in shipments
        ],
    }


def _files(path: Path) -> list[Path]:
    """Return the file and its write-ahead log."""
    return [p for p in (path, path.with_name(f"{path.name}-wal")) if p.is_file()]


def _table(db: Connection, name: str, time: str) -> dict[str, Any]:
    table = tables.metadata.tables[name]
    first, last = func.min(table.c[time]), func.max(table.c[time])
    n_rows, first_at, last_at = db.execute(
        select(func.count(literal_column("*")), first, last).select_from(table)
    ).one()
    return {
        "name": name,
        "rows": n_rows,
        "first_at": _moment(first_at),
        "last_at": _moment(last_at),
    }


def _moment(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
