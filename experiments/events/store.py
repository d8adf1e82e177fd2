"""The event store: SQLite in WAL mode with `synchronous=FULL`.

A commit has reached the disk when it returns, so what was acknowledged survives a power cut. One
transaction takes any number of records; that is what makes the sync cheap.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

from experiments.events.records import SCHEMA_VERSION, Event, Exposure, Outcome

_EXPOSURE_COLUMNS = tuple(field.name for field in fields(Exposure))
_OUTCOME_COLUMNS = tuple(field.name for field in fields(Outcome))

_TABLES = """
CREATE TABLE IF NOT EXISTS exposures (
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL,
    PRIMARY KEY (experiment, version, unit)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exposure_conflicts (
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL,
    PRIMARY KEY (experiment, version, unit, variant)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    inference_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, finished_at REAL NOT NULL,
    served_model TEXT NOT NULL, tenant TEXT NOT NULL, variant TEXT NOT NULL, experiment TEXT,
    version INTEGER, unit TEXT, exposure TEXT NOT NULL, status TEXT NOT NULL, error_code TEXT,
    cache TEXT NOT NULL, stream INTEGER NOT NULL, finish_reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, duration_s REAL NOT NULL, ttft_s REAL, retries INTEGER NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, schema_version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outcomes_by_unit ON outcomes (experiment, version, unit);
"""

_INSERT_EXPOSURE = (
    f"INSERT INTO exposures ({', '.join(_EXPOSURE_COLUMNS)}) "  # noqa: S608 (own column names)
    f"VALUES ({', '.join(':' + name for name in _EXPOSURE_COLUMNS)}) "
    "ON CONFLICT (experiment, version, unit) DO NOTHING"
)
_INSERT_CONFLICT = (
    f"INSERT INTO exposure_conflicts ({', '.join(_EXPOSURE_COLUMNS)}) "  # noqa: S608
    f"SELECT {', '.join(':' + name for name in _EXPOSURE_COLUMNS)} WHERE EXISTS ("
    "SELECT 1 FROM exposures WHERE experiment = :experiment AND version = :version "
    "AND unit = :unit AND variant <> :variant) "
    "ON CONFLICT (experiment, version, unit, variant) DO NOTHING"
)
_INSERT_OUTCOME = (
    f"INSERT INTO outcomes ({', '.join(_OUTCOME_COLUMNS)}) "  # noqa: S608
    f"VALUES ({', '.join(':' + name for name in _OUTCOME_COLUMNS)}) "
    "ON CONFLICT (inference_id) DO NOTHING"
)


class ArmCount(NamedTuple):
    """Units exposed to a variant, counted once each."""

    variant: str
    n_units: int


class EventStore:
    """A file of events. Not thread-safe: one thread writes, readers open their own.

    Args:
        path: Database file; its directory is created.
        read_only: Open for analysis beside a running writer.

    Raises:
        ValueError: If the file was written by a newer version.
        sqlite3.Error: If the file cannot be opened.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only:
            address = f"{path.absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(address, uri=True, isolation_level=None)
            self._check_version()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            path, isolation_level=None, timeout=30, check_same_thread=False, cached_statements=64
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._check_version()
        self._db.executescript(_TABLES)
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def append(self, events: Iterable[Event]) -> None:
        """Store records in one durable transaction; those already stored change nothing.

        Raises:
            sqlite3.Error: If the transaction failed; then none of the records is stored.
        """
        exposures: list[dict[str, object]] = []
        outcomes: list[dict[str, object]] = []
        for event in events:
            (exposures if isinstance(event, Exposure) else outcomes).append(asdict(event))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if exposures:
                self._db.executemany(_INSERT_EXPOSURE, exposures)
                self._db.executemany(_INSERT_CONFLICT, exposures)
            if outcomes:
                self._db.executemany(_INSERT_OUTCOME, outcomes)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def arm_counts(self, experiment: str, version: int) -> Sequence[ArmCount]:
        """Return the number of exposed units per variant, by first exposure."""
        rows = self._db.execute(
            "SELECT variant, COUNT(*) FROM exposures WHERE experiment = ? AND version = ? "
            "GROUP BY variant ORDER BY variant",
            (experiment, version),
        )
        return [ArmCount(variant, n) for variant, n in rows]

    def count(self, table: str) -> int:
        """Return the number of rows of `exposures`, `exposure_conflicts` or `outcomes`."""
        if table not in {"exposures", "exposure_conflicts", "outcomes"}:
            raise ValueError(f"no such table: {table!r}")
        row = self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()  # noqa: S608
        return int(row[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _check_version(self) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{self.path} has event schema {version}; this build reads up to {SCHEMA_VERSION}. "
                "Use the newer carril, or another CARRIL_HOME"
            )
