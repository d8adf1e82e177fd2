"""Writing the log as Parquet, a file per table, with memory that does not grow with it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Column, Connection, Engine, Select, Table, select
from sqlalchemy.types import Double

from experiments.events import tables
from experiments.events.records import SCHEMA_VERSION

_ROWS = 50_000
"""Rows of a piece, and of a row group: some 20 MB."""
_FLAGS = frozenset({"cached", "stream"})

TIME_OF: dict[str, str] = {
    "exposures": "exposed_at",
    "exposure_conflicts": "exposed_at",
    "outcomes": "finished_at",
    "feedback": "received_at",
    "feedback_conflicts": "received_at",
    "transcripts": "captured_at",
}
"""The moment of an event, by table."""


class Exported(NamedTuple):
    """A file that was written."""

    path: Path
    n_rows: int


def export_parquet(
    engine: Engine,
    directory: Path,
    names: Sequence[str],
    *,
    since: float | None = None,
    until: float | None = None,
    told: Callable[[str, int], Any] = lambda *_: None,
) -> list[Exported]:
    """Write tables to `directory/TABLE.parquet`; every file appears whole or not at all.

    All files show one moment of an event file that is in use.

    Args:
        engine: From `opened`.
        directory: Where to; made if it is not there.
        names: Tables.
        since: Events at or after this moment, seconds since the epoch.
        until: Events before it.
        told: Told the table and its number of rows, after every piece.

    Raises:
        OSError: If a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    with engine.connect() as db:
        if db.dialect.name == "sqlite":
            db.exec_driver_sql("BEGIN")
        else:
            db = db.execution_options(isolation_level="REPEATABLE READ", stream_results=True)
        for name in names:
            table = tables.metadata.tables[name]
            path = directory / f"{name}.parquet"
            found.append(Exported(path, _write(db, table, path, since, until, told)))
        db.rollback()
    return found


def schema_of(table: Table) -> pa.Schema:
    """Return the columns of a table's file."""
    return pa.schema(
        [pa.field(column.name, _type(column), nullable=column.nullable) for column in table.c],
        metadata={"carril.table": table.name, "carril.schema_version": str(SCHEMA_VERSION)},
    )


def _type(column: Column[Any]) -> pa.DataType:
    if column.name in _FLAGS:
        return pa.bool_()
    if isinstance(column.type, tables.Whole):
        return pa.int64()
    return pa.float64() if isinstance(column.type, Double) else pa.string()


def _write(
    db: Connection,
    table: Table,
    path: Path,
    since: float | None,
    until: float | None,
    told: Callable[[str, int], Any],
) -> int:
    schema = schema_of(table)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    n_rows = 0
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            rows = db.execute(_query(table, since, until))
            for piece in rows.partitions(_ROWS):
                columns = zip(*piece, strict=True)
                writer.write_batch(
                    pa.record_batch(
                        [
                            pa.array(_values(field, column), field.type)
                            for field, column in zip(schema, columns, strict=True)
                        ],
                        schema=schema,
                    )
                )
                n_rows += len(piece)
                told(table.name, n_rows)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return n_rows


def _query(table: Table, since: float | None, until: float | None) -> Select[Any]:
    # In the order of the key, which costs no sort, and is the same for the same events.
    query = select(*table.c).order_by(*table.primary_key)
    time = table.c[TIME_OF[table.name]]
    if since is not None:
        query = query.where(time >= since)
    if until is not None:
        query = query.where(time < until)
    return query


def _values(field: pa.Field, values: Sequence[Any]) -> Sequence[Any]:
    return [bool(value) for value in values] if field.name in _FLAGS else values
