"""Reading feedback: the votes that count, joined with the answers that they are about.

Of the votes on one target and metric the last one counts. An index has them in that order and rows
come one at a time, so memory stays flat however many there are.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from experiments.events.records import SCHEMA_VERSION
from experiments.events.schema import version_of

_FIRST_WITH_FEEDBACK = 2


class EventFileError(Exception):
    """The event file cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A vote that counts. What it is about is None until its outcome (or exposure) is stored."""

    feedback_id: str
    received_at: float
    tenant: str
    metric: str
    metric_type: str
    level: str
    direction: str
    target: str
    value: float | None
    text: str | None
    n_votes: int
    """Votes on this target and metric, this one and those that it replaced."""
    finished_at: float | None
    unit: str | None
    variant: str | None
    experiment: str | None
    version: int | None
    exposure: str | None
    """`enrolled`, `none` or `pinned`; for a session `enrolled` if it was exposed."""
    model_sha256: str | None
    intent: str | None
    finish_reason: str | None
    messages: str | None
    """JSON of the captured conversation, without personal data."""
    answer: str | None

    @property
    def joined(self) -> bool:
        """Whether what the vote is about is known."""
        return self.variant is not None


class Window(NamedTuple):
    """Which votes to read: received at or after `since`, before `until`."""

    since: float = 0.0
    until: float = 1e12


EVERYTHING = Window()


_VOTES = """
WITH ranked AS (
    SELECT *, ROW_NUMBER() OVER history AS n_votes, LEAD(1) OVER history IS NULL AS is_last
    FROM feedback WHERE received_at < :until
    WINDOW history AS (
        PARTITION BY level, tenant, target, metric ORDER BY received_at, feedback_id
    )
)
SELECT f.feedback_id, f.received_at, f.tenant, f.metric, f.metric_type, f.level, f.direction,
    f.target, f.value, f.text, f.n_votes,
    COALESCE(o.finished_at, e.exposed_at) AS finished_at,
    CASE f.level WHEN 'episode' THEN f.target ELSE o.unit END AS unit,
    COALESCE(o.variant, e.variant) AS variant,
    COALESCE(o.experiment, e.experiment) AS experiment,
    COALESCE(o.version, e.version) AS version,
    CASE WHEN e.unit IS NOT NULL THEN 'enrolled' ELSE o.exposure END AS exposure,
    COALESCE(o.model_sha256, e.model_sha256) AS model_sha256,
    o.intent, o.finish_reason, {texts}
FROM ranked AS f
LEFT JOIN outcomes AS o
    ON f.level = 'inference' AND o.inference_id = f.target AND o.tenant = f.tenant
{transcripts}
LEFT JOIN exposures AS e
    ON f.level = 'episode' AND e.unit = f.target AND e.tenant = f.tenant AND e.exposed_at = (
        SELECT MAX(x.exposed_at) FROM exposures AS x
        WHERE x.unit = f.target AND x.tenant = f.tenant
    )
WHERE f.is_last AND f.received_at >= :since
ORDER BY f.level, f.tenant, f.target, f.metric
"""
_OF_FILE = _VOTES.format(
    texts="t.messages, t.answer",
    transcripts="LEFT JOIN transcripts AS t ON f.level = 'inference' "
    "AND t.inference_id = f.target AND t.tenant = f.tenant",
)
_OF_SERVER = _VOTES.format(texts="NULL, NULL", transcripts="")
"""Texts stay on the nodes."""


def read_votes(source: Path | str, window: Window = EVERYTHING) -> Iterator[Vote]:
    """Yield the votes that count, those on one target together, sessions before answers.

    Args:
        source: The event file; may be in use. One that is not there has no votes. A text is the
            address of the central database, which has no texts of answers.
        window: Which votes.

    Raises:
        EventFileError: If the events cannot be read, or were written by a newer version.
    """
    parameters = window._asdict()
    rows = (
        _server_rows(source, parameters)
        if isinstance(source, str)
        else _file_rows(source, parameters)
    )
    for row in rows:
        yield Vote(**dict(zip(_COLUMNS, row, strict=True)))


def _server_rows(address: str, parameters: dict[str, float]) -> Iterator[Sequence[Any]]:
    from sqlalchemy import text

    from experiments.events.databases import EventsError, opened

    try:
        with opened(address) as engine, engine.connect() as db:
            streaming = db.execution_options(stream_results=True, postgresql_readonly=True)
            yield from streaming.execute(text(_OF_SERVER), parameters)
    except EventsError as error:
        raise EventFileError(str(error)) from error


def _file_rows(path: Path, parameters: dict[str, float]) -> Iterator[Sequence[Any]]:
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            version = version_of(db)
            if version > SCHEMA_VERSION:
                raise EventFileError(
                    f"{path} has event schema {version}; this build reads up to {SCHEMA_VERSION}. "
                    "Use the newer carril"
                )
            if version < _FIRST_WITH_FEEDBACK:
                return
            yield from db.execute(_OF_FILE, parameters)
    except sqlite3.Error as error:
        raise EventFileError(f"{path} cannot be read: {error}") from error


_COLUMNS = tuple(field.name for field in fields(Vote))
