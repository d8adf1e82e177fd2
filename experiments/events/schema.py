"""The tables of the event file, version by version."""

import sqlite3

from experiments.events.records import SCHEMA_VERSION

_EXPOSURE_COLUMNS = """
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL
"""
_FEEDBACK_COLUMNS = """
    feedback_id TEXT NOT NULL, received_at REAL NOT NULL, tenant TEXT NOT NULL,
    metric TEXT NOT NULL, metric_type TEXT NOT NULL, level TEXT NOT NULL, direction TEXT NOT NULL,
    target TEXT NOT NULL, value REAL, text TEXT, tags TEXT NOT NULL, idempotency TEXT,
    request_hash TEXT NOT NULL, config_hash TEXT NOT NULL, schema_version INTEGER NOT NULL
"""

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"CREATE TABLE IF NOT EXISTS exposures ({_EXPOSURE_COLUMNS}, "
        "PRIMARY KEY (experiment, version, unit)) WITHOUT ROWID",
        f"CREATE TABLE IF NOT EXISTS exposure_conflicts ({_EXPOSURE_COLUMNS}, "
        "PRIMARY KEY (experiment, version, unit, variant)) WITHOUT ROWID",
        """CREATE TABLE IF NOT EXISTS outcomes (
            inference_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, finished_at REAL NOT NULL,
            served_model TEXT NOT NULL, tenant TEXT NOT NULL, variant TEXT NOT NULL,
            experiment TEXT, version INTEGER, unit TEXT, exposure TEXT NOT NULL,
            status TEXT NOT NULL, error_code TEXT, cache TEXT NOT NULL, stream INTEGER NOT NULL,
            finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
            duration_s REAL NOT NULL, ttft_s REAL, retries INTEGER NOT NULL,
            config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, schema_version INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS outcomes_by_unit ON outcomes (experiment, version, unit)",
    ),
    (
        f"CREATE TABLE IF NOT EXISTS feedback ({_FEEDBACK_COLUMNS}, "
        "PRIMARY KEY (feedback_id, metric)) WITHOUT ROWID",
        f"CREATE TABLE IF NOT EXISTS feedback_conflicts ({_FEEDBACK_COLUMNS}, "
        "PRIMARY KEY (feedback_id, metric)) WITHOUT ROWID",
        "CREATE INDEX IF NOT EXISTS feedback_by_target ON feedback "
        "(level, tenant, target, metric, received_at, feedback_id)",
        "CREATE INDEX IF NOT EXISTS feedback_by_key ON feedback (idempotency) "
        "WHERE idempotency IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS exposures_by_unit ON exposures (unit)",
        """CREATE TABLE IF NOT EXISTS transcripts (
            inference_id TEXT PRIMARY KEY, captured_at REAL NOT NULL, tenant TEXT NOT NULL,
            messages TEXT NOT NULL, answer TEXT NOT NULL, unrated_until REAL NOT NULL,
            keep_until REAL NOT NULL, schema_version INTEGER NOT NULL
        )""",
        "ALTER TABLE outcomes ADD COLUMN intent TEXT",
        "ALTER TABLE outcomes ADD COLUMN confidence REAL",
        "CREATE INDEX IF NOT EXISTS transcripts_by_expiry ON transcripts (unrated_until)",
    ),
)
"""Statements that lead from version N to N + 1."""

assert len(_MIGRATIONS) == SCHEMA_VERSION, "a version without its migration"  # noqa: S101


def version_of(db: sqlite3.Connection) -> int:
    """Return the schema version of a file; 0 for an empty one."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def migrate(db: sqlite3.Connection) -> None:
    """Bring a file to this version, in one transaction; one that is there already is left alone.

    Args:
        db: Connection in autocommit mode, to a file that is not newer than this build.
    """
    if version_of(db) == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the lock: another process may have been faster.
        for statements in _MIGRATIONS[version_of(db) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
