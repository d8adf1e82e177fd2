"""Opening events for upkeep: a node's file or the central database, by one name.

What answers requests and analyses does not come here; it reads files without SQLAlchemy.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from experiments.events.central import CentralError, connect, place_name, server_url
from experiments.events.records import SCHEMA_VERSION
from experiments.events.schema import version_of


class EventsError(Exception):
    """The events cannot be used; the message says what to do."""


def is_address(source: str) -> bool:
    """Return whether a name is the address of a database, not a file."""
    return "://" in source


def name_of(source: str) -> str:
    """Return what events are called in messages, without a password."""
    return place_name(server_url(source)) if is_address(source) else source


@contextmanager
def opened(source: str, *, writing: bool = False) -> Iterator[Engine]:
    """Open events of this version.

    Args:
        source: Path of an event file, or address of the central database.
        writing: Whether to change them.

    Raises:
        EventsError: If there are none, or they are of another version. Also for errors of the
            database while it is open.
    """
    try:
        engine = _server(source) if is_address(source) else _file(Path(source), writing=writing)
    except CentralError as error:
        raise EventsError(str(error)) from error
    try:
        yield engine
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise EventsError(f"{name_of(source)}: {reason[0] if reason else error!r}") from error
    finally:
        engine.dispose()


def _server(source: str) -> Engine:
    engine = connect(server_url(source))
    try:
        with engine.connect() as db:
            version = db.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise EventsError(
            f"{name_of(source)}: {reason}; if it is new, run: carril events migrate --events URL"
        ) from error
    if version != f"{SCHEMA_VERSION:04d}":
        if not str(version or 0).isdecimal():
            raise EventsError(
                f"{name_of(source)} has tables of another program (revision {version!r}); give the "
                "events a database of their own"
            )
        raise _other_version(name_of(source), int(version or 0))
    return engine


def _file(path: Path, *, writing: bool) -> Engine:
    if not path.is_file():
        raise EventsError(f"no events: {str(path)!r} does not exist")
    mode = "rw" if writing else "ro"
    address = f"{path.absolute().as_uri()}?mode={mode}"

    def connection() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, isolation_level=None, timeout=30)

    try:
        db = connection()
        try:
            version = version_of(db)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise EventsError(f"{str(path)!r} cannot be read: {error}") from error
    if version != SCHEMA_VERSION:
        raise _other_version(repr(str(path)), version)
    return create_engine("sqlite://", creator=connection, poolclass=NullPool)


def _other_version(name: str, version: int) -> EventsError:
    advice = (
        "bring it forward with: carril events migrate"
        if version < SCHEMA_VERSION
        else "use the newer carril"
    )
    return EventsError(
        f"{name} has event schema {version}; this build has {SCHEMA_VERSION}: {advice}"
    )
