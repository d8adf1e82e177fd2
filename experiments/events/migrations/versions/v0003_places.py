"""Every event gets its place in the log (`seq`): the log can be shipped, and read up to a place.

Events of older files get places in the order of their time, each table after the one before it. An
index has all that an analysis reads of outcomes.
"""

import uuid

from alembic import op

from experiments.events.migrations import apply

revision = "0003"
down_revision = "0002"

_PLACED = (
    ("exposures", "exposed_at", "experiment, version, unit"),
    ("exposure_conflicts", "exposed_at", "experiment, version, unit, variant"),
    ("outcomes", "finished_at", "inference_id"),
    ("feedback", "received_at", "feedback_id, metric"),
    ("feedback_conflicts", "received_at", "feedback_id, metric"),
)


def upgrade() -> None:
    """Add what version 3 has."""
    apply(
        (
            "CREATE TABLE log_state (name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name)) "
            "WITHOUT ROWID",
            "CREATE TABLE shipments (party TEXT NOT NULL, seq INTEGER NOT NULL, "
            "shipped_at REAL NOT NULL, PRIMARY KEY (party)) WITHOUT ROWID",
        )
    )
    last = 0
    for table, time, key in _PLACED:
        apply([f"ALTER TABLE {table} ADD COLUMN seq INTEGER NOT NULL DEFAULT 0"])
        same = " AND ".join(f"placed.{name} = {table}.{name}" for name in key.split(", "))
        result = op.get_bind().exec_driver_sql(
            f"UPDATE {table} SET seq = {last} + placed.place FROM ("  # noqa: S608 (own names)
            f"SELECT {key}, ROW_NUMBER() OVER (ORDER BY {time}, {key}) AS place FROM {table}"
            f") AS placed WHERE {same}"
        )
        last += max(0, result.rowcount)
        apply([f"CREATE INDEX {table}_by_seq ON {table} (seq)"])
    apply(
        (
            f"INSERT INTO log_state VALUES ('node', '{uuid.uuid4()}')",  # noqa: S608 (own values)
            f"INSERT INTO log_state VALUES ('last_seq', '{last}')",  # noqa: S608
            "DROP INDEX outcomes_by_unit",
            "CREATE INDEX outcomes_of_units ON outcomes (experiment, version, unit, exposure, "
            "variant, status, cache, finished_at, duration_s, ttft_s, completion_tokens, "
            "confidence, seq)",
            "CREATE INDEX outcomes_by_time ON outcomes (finished_at)",
        )
    )
