"""The central database: one PostgreSQL that the event files of all nodes are shipped to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import URL, Engine, bindparam, create_engine, func, make_url, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from experiments.events import tables
from experiments.events.records import Event
from experiments.events.statements import storing
from experiments.events.upgrade import upgrade_server

_ONE_SHIPPER = 7_246_932
"""Key of the advisory lock of a shipment: nodes take turns, so they never wait for each other's
rows in a circle, and whoever sees a place of a node sees all before it."""
_CONNECT_TIMEOUT_S = 5
_UNANSWERED_MS = 30_000
"""A server that acknowledges nothing for this long is taken for dead."""


class CentralError(Exception):
    """The central database cannot be used; the message says what to do, and names no password."""


class Row(NamedTuple):
    """A record of a node's event file."""

    record: type[Event]
    values: Mapping[str, Any]
    """Columns, `seq` included."""


class Shipment(NamedTuple):
    """What a transaction brought."""

    n_events: int
    seq: int
    """The node's events up to this place are in the database."""


def server_url(address: str) -> URL:
    """Return the address of a PostgreSQL database.

    Args:
        address: `postgresql://user@host:port/database`. Without a password libpq takes the one in
            PGPASSWORD or PGPASSFILE.

    Raises:
        CentralError: If it is none.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise CentralError(
            "no address of a database; write postgresql://user@host:5432/database"
        ) from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise CentralError(
            f"{url.drivername!r} is no central database; write postgresql://user@host/database"
        )
    if not url.database:
        raise CentralError("the address names no database; write postgresql://user@host/database")
    if "@" in (url.host or ""):  # what stands before it is a part of a password: never shown
        raise CentralError(
            "the address has more than one @; write an @ of a password as %40, or leave the "
            "password to PGPASSFILE"
        )
    return url.set(drivername="postgresql+psycopg")


def place_name(url: URL) -> str:
    """Return what a database is called in messages and tables: no user, no password."""
    host = url.query.get("host", url.host) or "local"
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{host}{port}/{url.database}"


def connect(url: URL) -> Engine:
    """Return an engine; it connects when it is used.

    Raises:
        CentralError: If the driver is not installed, or the address contradicts itself.
    """
    options = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "tcp_user_timeout": _UNANSWERED_MS,
        "client_encoding": "utf8",  # whatever PGCLIENTENCODING says
    }
    try:
        return create_engine(
            url,
            pool_size=1,
            pool_pre_ping=True,
            connect_args={k: v for k, v in options.items() if k not in url.query},
        )
    except ModuleNotFoundError:
        raise CentralError(
            "PostgreSQL needs psycopg, which is not installed: pip install 'carril[postgres]'"
        ) from None
    except ArgumentError as error:
        raise CentralError(f"{place_name(url)}: {error}") from None


class CentralStore:
    """Events of all nodes. One thread uses it.

    Tables are made, or brought forward, on first use.

    Args:
        url: From `server_url`.
    """

    def __init__(self, url: URL) -> None:
        self.name = place_name(url)
        self._engine = connect(url)
        self._ready = False
        self._storing = storing(postgresql.insert)
        self._place = select(tables.shipments.c.seq).where(
            tables.shipments.c.party == bindparam("node")
        )
        self._arrive = _arrival(go_back=False)
        self._arrive_anew = _arrival(go_back=True)

    def migrate(self) -> bool:
        """Bring the tables to this version; return whether there was anything to do.

        Raises:
            CentralError: If the database cannot be used.
        """
        try:
            changed = upgrade_server(self._engine)
        except (SQLAlchemyError, ValueError) as error:
            raise self._explained(error) from error
        self._ready = True
        return changed

    def ship(
        self,
        node: str,
        rows_after: Callable[[int], Sequence[Row]],
        *,
        now: float,
        at_most: int | None = None,
        from_start: bool = False,
    ) -> Shipment:
        """Store a node's next events, and how far it has come, in one transaction.

        Repeating it changes nothing: rows are keyed by what they are about, and the place is the
        database's own.

        Args:
            node: Identity of the node's event file.
            rows_after: Returns the rows after a place, in order; none at the end.
            now: Seconds since the epoch.
            at_most: Begin no later than behind this place, whatever the database says: a file that
                was put back from a copy gives places again that the database has seen.
            from_start: Begin at the first event.

        Raises:
            CentralError: If it failed; then the database is as it was.
        """
        if not self._ready:
            self.migrate()
        try:
            with self._engine.begin() as db:
                db.execute(text(f"SELECT pg_advisory_xact_lock({_ONE_SHIPPER})"))
                # Whatever the server's default: what is reported as shipped is on its disk.
                db.execute(text("SET LOCAL synchronous_commit = on"))
                start = 0 if from_start else db.execute(self._place, {"node": node}).scalar() or 0
                start = start if at_most is None else min(start, at_most)
                rows = rows_after(start)
                if not rows:
                    return Shipment(0, start)
                for record, statements in self._storing.items():
                    values = [row.values for row in rows if row.record is record]
                    for statement in statements if values else ():
                        db.execute(statement, values)
                last = int(rows[-1].values["seq"])
                arrive = self._arrive_anew if from_start else self._arrive
                db.execute(arrive, {"party": node, "seq": last, "shipped_at": now})
                return Shipment(len(rows), last)
        except SQLAlchemyError as error:
            raise self._explained(error) from error

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        with self._engine.connect() as db:
            statement = text(f"SELECT COUNT(*) FROM {tables.metadata.tables[table].name}")  # noqa: S608
            return int(db.execute(statement).scalar_one())

    def close(self) -> None:
        """Close the connections."""
        with suppress(SQLAlchemyError):
            self._engine.dispose()

    def _explained(self, error: Exception) -> CentralError:
        reason = str(getattr(error, "orig", None) or error).strip()
        return CentralError(f"{self.name}: {_first_lines(reason.splitlines())}")


def _arrival(*, go_back: bool) -> postgresql.Insert:
    """Return the statement that records how far a node has come."""
    place = postgresql.insert(tables.shipments)
    seq = place.excluded.seq
    return place.on_conflict_do_update(
        index_elements=["party"],
        set_={
            "seq": seq if go_back else func.greatest(tables.shipments.c.seq, seq),
            "shipped_at": place.excluded.shipped_at,
        },
    )


def _first_lines(lines: Iterable[str]) -> str:
    """Return the first two lines in one; the driver's further ones repeat the statement."""
    found = [line.strip() for line in lines if line.strip()]
    return "; ".join(found[:2])
