"""Feedback, captured texts, and the labels that an answer gives itself."""

from experiments.events.migrations import apply

revision = "0002"
down_revision = "0001"

_FEEDBACK = """
    feedback_id TEXT NOT NULL, received_at REAL NOT NULL, tenant TEXT NOT NULL,
    metric TEXT NOT NULL, metric_type TEXT NOT NULL, level TEXT NOT NULL, direction TEXT NOT NULL,
    target TEXT NOT NULL, value REAL, text TEXT, tags TEXT NOT NULL, idempotency TEXT,
    request_hash TEXT NOT NULL, config_hash TEXT NOT NULL, schema_version INTEGER NOT NULL
"""


def upgrade() -> None:
    """Add what version 2 has."""
    apply(
        (
            f"CREATE TABLE feedback ({_FEEDBACK}, PRIMARY KEY (feedback_id, metric)) WITHOUT ROWID",
            f"CREATE TABLE feedback_conflicts ({_FEEDBACK}, "
            "PRIMARY KEY (feedback_id, metric)) WITHOUT ROWID",
            "CREATE INDEX feedback_by_target ON feedback "
            "(level, tenant, target, metric, received_at, feedback_id)",
            "CREATE INDEX feedback_by_key ON feedback (idempotency) WHERE idempotency IS NOT NULL",
            "CREATE INDEX exposures_by_unit ON exposures (unit)",
            """CREATE TABLE transcripts (
                inference_id TEXT PRIMARY KEY, captured_at REAL NOT NULL, tenant TEXT NOT NULL,
                messages TEXT NOT NULL, answer TEXT NOT NULL, unrated_until REAL NOT NULL,
                keep_until REAL NOT NULL, schema_version INTEGER NOT NULL
            )""",
            "ALTER TABLE outcomes ADD COLUMN intent TEXT",
            "ALTER TABLE outcomes ADD COLUMN confidence REAL",
            "CREATE INDEX transcripts_by_expiry ON transcripts (unrated_until)",
        )
    )
