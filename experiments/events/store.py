"""The event store: SQLite in WAL mode with `synchronous=FULL`.

A commit has reached the disk when it returns, so what was acknowledged survives a power cut. One
transaction takes any number of records; that is what makes the sync cheap.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.events.records import SCHEMA_VERSION, Event, Exposure, Kept
from experiments.events.schema import migrate, version_of

if TYPE_CHECKING:
    from experiments.events.statements import Storing

_TABLES = frozenset(
    {
        "exposures",
        "exposure_conflicts",
        "outcomes",
        "feedback",
        "feedback_conflicts",
        "transcripts",
    }
)

_CACHE_KIB = 64 * 1024
"""Pages that a writer keeps in memory: units are random keys, and a commit that has to read the
leaves it inserts into takes several times as long."""

_LAST_PLACE = "SELECT value FROM log_state WHERE name = 'last_seq'"
_TAKE_PLACES = "UPDATE log_state SET value = ? WHERE name = 'last_seq'"
"""Places are given in the writer's transaction, so whoever sees one sees all before it. Those of
repeated events stay empty."""

_PURGE_TEXTS = """
DELETE FROM transcripts WHERE unrated_until < :now AND (
    keep_until < :now OR NOT EXISTS (
        SELECT 1 FROM feedback
        WHERE level = 'inference' AND tenant = transcripts.tenant
            AND target = transcripts.inference_id
    )
)
"""
"""`unrated_until` is never after `keep_until`, so its index finds all candidates."""

_FIRST = """
SELECT variant, probability, bucket, config_hash FROM exposures
WHERE experiment = ? AND version = ? AND unit = ?
"""


class ArmCount(NamedTuple):
    """Units exposed to a variant, counted once each."""

    variant: str
    n_units: int


class EventStore:
    """A file of events. Not thread-safe: one thread writes, readers open their own.

    Args:
        path: Database file; its directory is created.
        read_only: Open for analysis beside a running writer.
        checkpoint_pages: Pages in the log of the file from which on a commit moves them into the
            file itself, which takes a multiple of the commit's own time.

    Raises:
        ValueError: If the file was written by a newer version.
        sqlite3.Error: If the file cannot be opened.
    """

    def __init__(
        self, path: Path, *, read_only: bool = False, checkpoint_pages: int = 1000
    ) -> None:
        self.path = path
        self._storing: dict[type[Event], Storing] = {}
        if read_only:
            address = f"{path.absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(
                address, uri=True, isolation_level=None, check_same_thread=False
            )
            self._check_version()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        from experiments.events.statements import sqlite_storing  # SQLAlchemy: for writers only

        self._storing = sqlite_storing()
        self._db = sqlite3.connect(
            path, isolation_level=None, timeout=30, check_same_thread=False, cached_statements=64
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(f"PRAGMA cache_size={-_CACHE_KIB:d}")
        self._db.execute(f"PRAGMA wal_autocheckpoint={checkpoint_pages:d}")
        self._check_version()
        migrate(path)

    def append(self, events: Iterable[Event]) -> None:
        """Store records in one durable transaction; those already stored change nothing.

        Raises:
            sqlite3.Error: If the transaction failed; then none of the records is stored.
        """
        if not self._storing:
            raise sqlite3.OperationalError(f"{self.path} was opened readonly")
        rows: dict[type[Event], list[tuple[Any, ...]]] = {}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (last,) = self._db.execute(_LAST_PLACE).fetchone()
            place = int(last)
            for event in events:
                place += 1
                record = type(event)
                rows.setdefault(record, []).append(self._storing[record].values(event, place))
            for record, storing in self._storing.items():
                for text in storing.texts if record in rows else ():
                    self._db.executemany(text, rows[record])
            self._db.execute(_TAKE_PLACES, (str(place),))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def purge_texts(self, now: float) -> int:
        """Delete the transcripts whose time is over, from the file's free pages too.

        Args:
            now: Seconds since the epoch.

        Returns:
            Number of transcripts deleted.
        """
        self._db.execute("PRAGMA secure_delete=ON")
        purged = self._db.execute(_PURGE_TEXTS, {"now": now}).rowcount
        if purged:
            # The log still has the pages as they were; after this it starts over.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return purged

    def arm_counts(self, experiment: str, version: int) -> Sequence[ArmCount]:
        """Return the number of exposed units per variant, by first exposure."""
        rows = self._db.execute(
            "SELECT variant, COUNT(*) FROM exposures WHERE experiment = ? AND version = ? "
            "GROUP BY variant ORDER BY variant",
            (experiment, version),
        )
        return [ArmCount(variant, n) for variant, n in rows]

    def kept(self, exposure: Exposure) -> Kept:
        """Return the first exposure of a unit, which is stored.

        Raises:
            LookupError: If it is not, as where the experiment was pruned in between.
        """
        key = (exposure.experiment, exposure.version, exposure.unit)
        row = self._db.execute(_FIRST, key).fetchone()
        if row is None:
            raise LookupError(f"no exposure of {key!r}")
        return Kept(*row)

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        if table not in _TABLES:
            raise ValueError(f"no such table: {table!r}")
        row = self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()  # noqa: S608
        return int(row[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _check_version(self) -> None:
        version = version_of(self._db)
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{self.path} has event schema {version}; this build reads up to {SCHEMA_VERSION}. "
                "Use the newer carril, or another CARRIL_HOME"
            )
