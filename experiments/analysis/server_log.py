"""The central database, as the analysis reads it: one snapshot of the events of all nodes."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection

from experiments.analysis.columns import table_of
from experiments.analysis.errors import UnreadableLog
from experiments.analysis.log import Log, Row
from experiments.events.databases import EventsError, name_of, opened

_NAMED = re.compile(r"(?<![:\w]):([a-z]\w*)")


class ServerLog(Log):
    """A view of a PostgreSQL database that does not change while it is open.

    Takes the SQL of this package as it is: only its parameters are written in another way.
    """

    sharable = False

    def __init__(self, db: Connection, name: str) -> None:
        self._server = db
        self.path = Path(name)

    @property
    def last_place(self) -> int | None:
        """None: places are those of the nodes, and the transaction is the snapshot."""
        return None

    @property
    def reader(self) -> "ServerLog":
        """Reads columns in this view."""
        return self

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """Yield the rows of a query; the server keeps those that are not read yet."""
        return self._rows(sql, parameters or {}, stream_results=True)

    def row(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Row:
        """Return the row of a query that has one, such as an aggregate."""
        return next(self.rows(sql, parameters))

    def read(self, sql: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """Return the rows of a query as columns."""
        return table_of(list(self._rows(sql, parameters)), schema)

    def _rows(self, sql: str, parameters: Mapping[str, Any], **options: bool) -> Iterator[Row]:
        translated = _NAMED.sub(r"%(\1)s", sql.replace("%", "%%"))
        found = self._server.exec_driver_sql(
            translated, dict(parameters), execution_options=options
        )
        return (tuple(row) for row in found)


@contextmanager
def open_server_log(address: str) -> Iterator[ServerLog]:
    """Open the central database for one analysis.

    Raises:
        UnreadableLog: If it cannot be used. Also for its errors while it is open.
    """
    try:
        with opened(address) as engine, engine.connect() as connection:
            db = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            yield ServerLog(db, name_of(address))
    except EventsError as error:
        raise UnreadableLog(str(error)) from error
