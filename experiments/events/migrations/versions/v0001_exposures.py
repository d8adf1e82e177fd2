"""Exposures, their conflicts, and outcomes."""

from experiments.events.migrations import apply

revision = "0001"
down_revision = None

_EXPOSURE = """
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL
"""


def upgrade() -> None:
    """Make the tables of version 1."""
    apply(
        (
            f"CREATE TABLE exposures ({_EXPOSURE}, "
            "PRIMARY KEY (experiment, version, unit)) WITHOUT ROWID",
            f"CREATE TABLE exposure_conflicts ({_EXPOSURE}, "
            "PRIMARY KEY (experiment, version, unit, variant)) WITHOUT ROWID",
            """CREATE TABLE outcomes (
                inference_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, finished_at REAL NOT NULL,
                served_model TEXT NOT NULL, tenant TEXT NOT NULL, variant TEXT NOT NULL,
                experiment TEXT, version INTEGER, unit TEXT, exposure TEXT NOT NULL,
                status TEXT NOT NULL, error_code TEXT, cache TEXT NOT NULL,
                stream INTEGER NOT NULL, finish_reason TEXT, prompt_tokens INTEGER,
                completion_tokens INTEGER, duration_s REAL NOT NULL, ttft_s REAL,
                retries INTEGER NOT NULL, config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL,
                schema_version INTEGER NOT NULL
            ) WITHOUT ROWID""",
            "CREATE INDEX outcomes_by_unit ON outcomes (experiment, version, unit)",
        )
    )
