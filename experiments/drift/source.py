"""Reading traffic from the event file, as columns per variant."""

import math
import sqlite3
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

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
HAVING ended_at < :closed_before
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
    path: Path, policy: DriftPolicy, *, since: float, until: float
) -> dict[str, Observations]:
    """Read a period.

    Args:
        path: The event file; may be in use.
        policy: Metrics and idle time of sessions.
        since: Start, seconds since the epoch.
        until: End.

    Returns:
        Traffic per variant; variants without any are absent.

    Raises:
        EventsUnavailable: If the file is missing, damaged, or of another version.
        BadInput: If the period has too much traffic for memory.
    """
    found: dict[str, _Columns] = {}
    with _opened(path) as db:
        parameters = {"since": since, "until": until}
        for n, row in enumerate(db.execute(_ANSWERS, parameters)):
            if n >= _MAX_ANSWERS:
                raise BadInput(
                    f"the period has more than {_MAX_ANSWERS:,} answers", "choose a shorter one"
                )
            _add_answer(found.setdefault(row[0], _Columns()), row)
        metric = {"metric": policy.satisfaction_metric}
        for variant, tenant, unit, at, value in db.execute(_VOTES, parameters | metric):
            columns = found.setdefault(variant, _Columns())
            columns.votes["at"].append(at)
            columns.votes["session"].append(columns.session_code(tenant, unit))
            columns.votes["good"].append(1.0 if value > 0 else 0.0)
        leads = {
            "metric": policy.lead_metric,
            "closed_before": until - policy.session_idle_h * 3600.0,
        }
        for variant, ended_at, lead in db.execute(_CLOSED, parameters | leads):
            columns = found.setdefault(variant, _Columns())
            columns.closed["at"].append(ended_at)
            columns.closed["lead"].append(float(lead))
    return {name: columns.observations() for name, columns in found.items()}


def period_of(path: Path) -> tuple[float, float] | None:
    """Return the first and the last moment with traffic; None without any.

    Raises:
        EventsUnavailable: If the file cannot be read.
    """
    with _opened(path) as db:
        first, last = db.execute(
            "SELECT MIN(finished_at), MAX(finished_at) FROM outcomes"
        ).fetchone()
    return None if first is None else (float(first), float(last))


def _add_answer(columns: _Columns, row: tuple[object, ...]) -> None:
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


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
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
            db.execute("BEGIN")  # one snapshot for all queries, beside a running writer
            yield db
    except sqlite3.Error as error:
        raise EventsUnavailable(f"{path} cannot be read: {error}") from error
