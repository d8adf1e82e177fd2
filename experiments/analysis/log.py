"""The event file, as the analysis reads it: one snapshot beside a running writer."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.analysis.errors import UnreadableLog
from experiments.events.records import SCHEMA_VERSION
from experiments.events.schema import version_of

if TYPE_CHECKING:
    from experiments.analysis.columns import Reader

_OLDEST = 2
"""First schema with feedback and the labels of answers."""
_FIRST_WITH_PLACES = 3
_CACHE_KIB = 64 * 1024
"""Page cache of a connection; what is sorted beyond it goes to temporary files."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which part of the log an analysis is about."""

    experiment: str
    version: int
    control: str
    treatment: str
    config_hashes: tuple[str, ...]
    """Configurations whose exposures count: those of one phase, hence of one split."""

    def parameters(self) -> dict[str, Any]:
        """Return the values that the SQL of this package names."""
        hashes = {f"config_{i}": name for i, name in enumerate(self.config_hashes)}
        return {
            "experiment": self.experiment,
            "version": self.version,
            "control": self.control,
            "treatment": self.treatment,
            **hashes,
        }

    @property
    def where(self) -> str:
        """Condition on exposures `e`."""
        hashes = ", ".join(f":config_{i}" for i in range(len(self.config_hashes)))
        return (
            "e.experiment = :experiment AND e.version = :version "
            f"AND e.variant IN (:control, :treatment) AND e.config_hash IN ({hashes})"
        )

    def has(self, config_hash: str, variant: str) -> bool:
        """Return whether exposures of a configuration and variant count."""
        return variant in (self.control, self.treatment) and config_hash in self.config_hashes


class Log:
    """A read-only view of an event file that does not change while it is open."""

    sharable = True
    """Whether other processes can read the same events by `path`."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self.path = path
        self._has_places = version_of(db) >= _FIRST_WITH_PLACES

    @property
    def last_place(self) -> int | None:
        """The place of the last event in the log; None in files of before there were places."""
        if not self._has_places:
            return None
        return int(self.row("SELECT value FROM log_state WHERE name = 'last_seq'")[0])

    @property
    def reader(self) -> "Reader":
        """Reads columns in this view."""
        from experiments.analysis.columns import RowReader

        return RowReader(self._db)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """Yield the rows of a query."""
        return self._db.execute(sql, parameters or {})

    def row(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Row:
        """Return the row of a query that has one, such as an aggregate."""
        row: Row = self._db.execute(sql, parameters or {}).fetchone()
        return row

    def first(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Row | None:
        """Return the first row of a query, or None."""
        return next(self.rows(sql, parameters), None)


@contextmanager
def open_log(path: Path | str) -> Iterator[Log]:
    """Open events for one analysis.

    Args:
        path: An event file; may be in use. A text is the address of the central database.

    Raises:
        UnreadableLog: If it is missing, no event file, or of a version this code cannot read. Also
            for errors of the database while the log is open.
    """
    if isinstance(path, str):
        from experiments.analysis.server_log import open_server_log

        with open_server_log(path) as log:
            yield log
        return
    if not path.is_file():
        raise UnreadableLog(f"no events: {str(path)!r} does not exist")
    try:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=10
        )
    except sqlite3.Error as error:
        raise UnreadableLog(f"{str(path)!r} cannot be opened: {error}") from error
    try:
        version = version_of(db)
        if not _OLDEST <= version <= SCHEMA_VERSION:
            raise UnreadableLog(
                f"{str(path)!r} has event schema {version}; this build analyses {_OLDEST} to "
                f"{SCHEMA_VERSION}. A running server brings older files forward; newer ones need "
                "the newer carril"
            )
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("BEGIN")
        yield Log(db, path)
    except sqlite3.Error as error:
        raise UnreadableLog(f"{str(path)!r} cannot be read: {error}") from error
    finally:
        db.close()
