"""The tables of the event log, once for SQLite and PostgreSQL.

The migrations make them; this is what statements are built from, and a test holds both together.
"""

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData()


class Words(TypeDecorator[str]):
    """Text compared byte by byte on every database, so that one order of keys holds everywhere.

    PostgreSQL takes no NUL in a text; there it becomes U+FFFD.
    """

    impl = Text().with_variant(Text(collation="C"), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return what the database takes."""
        if dialect.name == "postgresql" and isinstance(value, str):
            return value.replace("\x00", "\ufffd")
        return value


class Whole(TypeDecorator[int]):
    """64-bit integer; yes and no are 1 and 0."""

    impl = BigInteger().with_variant(Integer(), "sqlite")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return an integer where a flag is given."""
        return int(value) if isinstance(value, bool) else value


_NUMBER: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")


def _words(name: str, *, optional: bool = False) -> Column[str]:
    return Column(name, Words(), nullable=optional)


def _whole(name: str, *, optional: bool = False) -> Column[int]:
    return Column(name, Whole(), nullable=optional)


def _number(name: str, *, optional: bool = False) -> Column[float]:
    return Column(name, _NUMBER, nullable=optional)


def _seq() -> Column[int]:
    """Place in the log of the node that took the event, from 1; later events have greater ones."""
    return Column("seq", Whole(), nullable=False, server_default=text("0"))


def _exposures(name: str, *key: str) -> Table:
    return Table(
        name,
        metadata,
        _words("experiment"),
        _whole("version"),
        _words("unit"),
        _words("variant"),
        _number("probability"),
        _whole("bucket"),
        _number("exposed_at"),
        _words("inference_id"),
        _words("served_model"),
        _words("tenant"),
        _words("config_hash"),
        _words("model_sha256"),
        _whole("cached"),
        _whole("schema_version"),
        _seq(),
        PrimaryKeyConstraint(*key),
        sqlite_with_rowid=False,
    )


def _feedback(name: str) -> Table:
    return Table(
        name,
        metadata,
        _words("feedback_id"),
        _number("received_at"),
        _words("tenant"),
        _words("metric"),
        _words("metric_type"),
        _words("level"),
        _words("direction"),
        _words("target"),
        _number("value", optional=True),
        _words("text", optional=True),
        _words("tags"),
        _words("idempotency", optional=True),
        _words("request_hash"),
        _words("config_hash"),
        _whole("schema_version"),
        _seq(),
        PrimaryKeyConstraint("feedback_id", "metric"),
        sqlite_with_rowid=False,
    )


exposures = _exposures("exposures", "experiment", "version", "unit")
exposure_conflicts = _exposures("exposure_conflicts", "experiment", "version", "unit", "variant")
outcomes = Table(
    "outcomes",
    metadata,
    _words("inference_id"),
    _words("request_id"),
    _number("finished_at"),
    _words("served_model"),
    _words("tenant"),
    _words("variant"),
    _words("experiment", optional=True),
    _whole("version", optional=True),
    _words("unit", optional=True),
    _words("exposure"),
    _words("status"),
    _words("error_code", optional=True),
    _words("cache"),
    _whole("stream"),
    _words("finish_reason", optional=True),
    _whole("prompt_tokens", optional=True),
    _whole("completion_tokens", optional=True),
    _number("duration_s"),
    _number("ttft_s", optional=True),
    _whole("retries"),
    _words("config_hash"),
    _words("model_sha256"),
    _whole("schema_version"),
    _words("intent", optional=True),
    _number("confidence", optional=True),
    _seq(),
    PrimaryKeyConstraint("inference_id"),
    sqlite_with_rowid=False,
)
feedback = _feedback("feedback")
feedback_conflicts = _feedback("feedback_conflicts")
transcripts = Table(
    "transcripts",
    metadata,
    _words("inference_id"),
    _number("captured_at"),
    _words("tenant"),
    _words("messages"),
    _words("answer"),
    _number("unrated_until"),
    _number("keep_until"),
    _whole("schema_version"),
    PrimaryKeyConstraint("inference_id"),
)

log_state = Table(
    "log_state",
    metadata,
    _words("name"),
    _words("value"),
    PrimaryKeyConstraint("name"),
    sqlite_with_rowid=False,
)
"""`node`: the identity of this file. `last_seq`: the place given last."""
shipments = Table(
    "shipments",
    metadata,
    _words("party"),
    _whole("seq"),
    _number("shipped_at"),
    PrimaryKeyConstraint("party"),
    sqlite_with_rowid=False,
)
"""How far events have been brought: in the central database one row per node, in the event file of
a node one row per destination."""

SHIPPED = (exposures, exposure_conflicts, outcomes, feedback, feedback_conflicts)
"""What goes to a central database, facts before the conflicts with them. Texts stay on the node
that took them, which deletes them in time."""
for _table in SHIPPED:
    Index(f"{_table.name}_by_seq", _table.c.seq)

OUTCOME_COLUMNS = (
    "experiment",
    "version",
    "unit",
    "exposure",
    "variant",
    "status",
    "cache",
    "finished_at",
    "duration_s",
    "ttft_s",
    "completion_tokens",
    "confidence",
    "seq",
)
"""What an analysis reads of an outcome: one index has it all, in the order of the units."""
Index("outcomes_of_units", *(outcomes.c[name] for name in OUTCOME_COLUMNS))
Index("outcomes_by_time", outcomes.c.finished_at)
Index(
    "feedback_by_target",
    *(
        feedback.c[name]
        for name in ("level", "tenant", "target", "metric", "received_at", "feedback_id")
    ),
)
Index(
    "feedback_by_key",
    feedback.c.idempotency,
    sqlite_where=feedback.c.idempotency.is_not(None),
    postgresql_where=feedback.c.idempotency.is_not(None),
)
Index("exposures_by_unit", exposures.c.unit)
Index("transcripts_by_expiry", transcripts.c.unrated_until)
