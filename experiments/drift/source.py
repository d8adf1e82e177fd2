"""Reading traffic from the event log, as columns per variant."""

import math
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.drift.errors import BadInput, EventsUnavailable
from experiments.drift.observations import UNLABELLED, Answers, Closed, Observations, Votes
from experiments.drift.policy import DriftPolicy
from experiments.events.records import SCHEMA_VERSION
from experiments.events.schema import version_of

_FIRST_WITH_LABELS = 2
_MAX_ANSWERS = 20_000_000
"""About 1.2 GB of columns; a period with more has to be shortened."""

_ANSWERS = """
SELECT variant, tenant, COALESCE(unit, inference_id), finished_at, status, intent, confidence,
    CASE WHEN cache IN ('miss', 'bypass') THEN duration_s END,
    CASE WHEN cache IN ('miss', 'bypass') THEN prompt_tokens + completion_tokens END,
    model_sha256
FROM outcomes
WHERE finished_at >= :since AND finished_at < :until
    AND status <> 'aborted' AND exposure NOT IN ('pinned', 'override', 'shadow')
"""
"""Cached answers count for what they say, not for what they cost. Pinned and overridden requests
are somebody's tests, nobody saw the answers of a shadow, and requests that the client gave up say
nothing about the answer."""

_VOTES = """
WITH ranked AS (
    SELECT target, tenant, received_at, value, ROW_NUMBER() OVER (
        PARTITION BY tenant, target ORDER BY received_at DESC, feedback_id DESC
    ) AS place
    FROM feedback
    WHERE level = 'inference' AND metric = :metric AND value IS NOT NULL AND received_at < :until
)
SELECT o.variant, o.tenant, COALESCE(o.unit, o.inference_id), r.received_at, r.value
FROM ranked AS r JOIN outcomes AS o ON o.inference_id = r.target AND o.tenant = r.tenant
WHERE r.place = 1 AND r.received_at >= :since AND o.exposure NOT IN ('pinned', 'override', 'shadow')
"""

_CLOSED = """
SELECT variant, MAX(finished_at) AS ended_at, EXISTS (
    SELECT 1 FROM feedback AS f
    WHERE f.level = 'episode' AND f.metric = :metric AND f.target = o.unit AND f.tenant = o.tenant
        AND f.value = 1 AND f.received_at < :until
)
FROM outcomes AS o
WHERE unit IS NOT NULL AND finished_at >= :since AND finished_at < :until
    AND exposure NOT IN ('pinned', 'override', 'shadow') AND status <> 'aborted'
GROUP BY variant, tenant, unit
HAVING MAX(finished_at) < :closed_before
"""


class _Columns:
    """Rows of one variant while they are read."""

    def __init__(self) -> None:
        self.numbers = {
            name: array("d") for name in ("at", "confidence", "latency", "tokens", "failed")
        }
        self.session, self.intent = array("q"), array("q")
        self.votes = {name: array("d") for name in ("at", "session", "good")}
        self.closed = {name: array("d") for name in ("at", "lead")}
        self.sessions: dict[tuple[str, str], int] = {}
        self.intents: dict[str, int] = {}
        self.models: set[str] = set()

    def session_code(self, tenant: str, unit: str) -> int:
        return self.sessions.setdefault((tenant, unit), len(self.sessions))

    def observations(self) -> Observations:
        number = {name: np.array(column) for name, column in self.numbers.items()}
        order = np.argsort(number["at"], kind="stable")
        votes = {name: np.array(column) for name, column in self.votes.items()}
        by_time = np.argsort(votes["at"], kind="stable")
        closed = {name: np.array(column) for name, column in self.closed.items()}
        by_end = np.argsort(closed["at"], kind="stable")
        return Observations(
            intents=tuple(self.intents),
            models=tuple(sorted(self.models)),
            answers=Answers(
                at=number["at"][order],
                session=np.array(self.session, dtype=np.int64)[order],
                intent=np.array(self.intent, dtype=np.int64)[order],
                confidence=number["confidence"][order],
                latency_s=number["latency"][order],
                tokens=number["tokens"][order],
                failed=number["failed"][order].astype(bool),
            ),
            votes=Votes(
                at=votes["at"][by_time],
                session=votes["session"][by_time].astype(np.int64),
                good=votes["good"][by_time],
            ),
            closed=Closed(at=closed["at"][by_end], lead=closed["lead"][by_end]),
        )


def read_traffic(
    source: Path | str, policy: DriftPolicy, *, since: float, until: float
) -> dict[str, Observations]:
    """Read a period.

    Args:
        source: The event file; may be in use. A text is the address of the central database.
        policy: Metrics and idle time of sessions.
        since: Start, seconds since the epoch.
        until: End.

    Returns:
        Traffic per variant; variants without any are absent.

    Raises:
        EventsUnavailable: If the events are missing, damaged, or of another version.
        BadInput: If the period has too much traffic for memory.
    """
    found: dict[str, _Columns] = {}
    with _opened(source) as run:
        parameters = {"since": since, "until": until}
        for n, row in enumerate(run(_ANSWERS, parameters)):
            if n >= _MAX_ANSWERS:
                raise BadInput(
                    f"the period has more than {_MAX_ANSWERS:,} answers", "choose a shorter one"
                )
            _add_answer(found.setdefault(row[0], _Columns()), row)
        metric = {"metric": policy.satisfaction_metric}
        for variant, tenant, unit, at, value in run(_VOTES, parameters | metric):
            columns = found.setdefault(variant, _Columns())
            columns.votes["at"].append(at)
            columns.votes["session"].append(columns.session_code(tenant, unit))
            columns.votes["good"].append(1.0 if value > 0 else 0.0)
        leads = {
            "metric": policy.lead_metric,
            "closed_before": until - policy.session_idle_h * 3600.0,
        }
        for variant, ended_at, lead in run(_CLOSED, parameters | leads):
            columns = found.setdefault(variant, _Columns())
            columns.closed["at"].append(ended_at)
            columns.closed["lead"].append(float(lead))
    return {name: columns.observations() for name, columns in found.items()}


def period_of(source: Path | str) -> tuple[float, float] | None:
    """Return the first and the last moment with traffic; None without any.

    Raises:
        EventsUnavailable: If the events cannot be read.
    """
    with _opened(source) as run:
        ((first, last),) = run("SELECT MIN(finished_at), MAX(finished_at) FROM outcomes", {})
    return None if first is None else (float(first), float(last))


def _add_answer(columns: _Columns, row: Sequence[object]) -> None:
    _, tenant, unit, at, status, intent, confidence, latency, tokens, model = row
    failed = status != "ok"
    columns.session.append(columns.session_code(str(tenant), str(unit)))
    columns.intent.append(
        UNLABELLED
        if intent is None or failed
        else columns.intents.setdefault(str(intent), len(columns.intents))
    )
    columns.numbers["at"].append(_number(at))
    columns.numbers["failed"].append(float(failed))
    columns.numbers["confidence"].append(math.nan if failed else _number(confidence))
    columns.numbers["latency"].append(math.nan if failed else _number(latency))
    columns.numbers["tokens"].append(math.nan if failed else _number(tokens))
    if model:
        columns.models.add(str(model))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


_Run = Callable[[str, Mapping[str, Any]], Iterable[Sequence[Any]]]
"""Yields the rows of a query."""


@contextmanager
def _opened(source: Path | str) -> Iterator[_Run]:
    """Open one snapshot for all queries, beside whoever writes."""
    with _server(source) if isinstance(source, str) else _file(source) as run:
        yield run


@contextmanager
def _server(address: str) -> Iterator[_Run]:
    from sqlalchemy import text

    from experiments.events.databases import EventsError, opened

    try:
        with opened(address) as engine, engine.connect() as connection:
            db = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True, stream_results=True
            )
            yield lambda sql, parameters: db.execute(text(sql), dict(parameters))
    except EventsError as error:
        raise EventsUnavailable(str(error)) from error


@contextmanager
def _file(path: Path) -> Iterator[_Run]:
    if not path.is_file():
        raise EventsUnavailable(
            f"no events at {str(path)!r}", "serve traffic first, or name the file with --events"
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            version = version_of(db)
            if version > SCHEMA_VERSION:
                raise EventsUnavailable(
                    f"{path} has event schema {version}; this build reads up to {SCHEMA_VERSION}",
                    "use the newer carril",
                )
            if version < _FIRST_WITH_LABELS:
                raise EventsUnavailable(
                    f"{path} has event schema {version}, which has no intents and no feedback",
                    "a gateway of this version brings it forward when it starts",
                )
            db.execute("BEGIN")
            yield db.execute
    except sqlite3.Error as error:
        raise EventsUnavailable(f"{path} cannot be read: {error}") from error
