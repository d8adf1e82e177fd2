"""What is computed of one piece of the log: some thousand sessions, with all that belongs to them.

Everything that an analysis needs is a sum over sessions, an order statistic over answers, or a hash
over rows in order. So pieces can be read by several processes, and memory is that of a piece. Sums
within a piece are taken one after the other in the order of the units, and pieces in their order:
the result is the same to the last bit however many processes there are, and on every machine.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from experiments.analysis.answers import (
    ABORTED,
    ERROR,
    OK,
    SHARED,
    Answers,
    columns_of,
    fresh,
    per_session,
)
from experiments.analysis.columns import (
    NUMBER,
    TEXT,
    WHOLE,
    Coded,
    Flags,
    Floats,
    Ints,
    Reader,
    among,
    canonical,
    floats,
    places_in,
)
from experiments.analysis.exposures import Assignment, Group, Sessions
from experiments.analysis.keys import key_of
from experiments.analysis.measures import LONGEST_S

SETTLED_S = 600.0
"""An outcome may take this long: twice the default deadline of a request."""
_SKEW_S = 60.0
"""An outcome may end this long before its exposure by another node's clock."""
_OUTCOMES = f"""
SELECT unit, variant,
    CASE status WHEN 'ok' THEN {OK} WHEN 'error' THEN {ERROR} WHEN 'aborted' THEN {ABORTED} ELSE 0
    END + CASE cache WHEN 'hit' THEN {SHARED} WHEN 'join' THEN {SHARED} ELSE 0 END,
    finished_at, duration_s {{more}}
FROM outcomes
WHERE experiment = :experiment AND version = :version AND unit > :after AND unit <= :last
    AND exposure BETWEEN 'enrolled' AND 'enrolled' {{known}}
ORDER BY unit, exposure, variant, status, cache, finished_at, duration_s, ttft_s,
    completion_tokens, confidence
"""  # noqa: S608 (own numbers)
"""The order is the index's. Written as an equality, the exposure would be a constant to SQLite,
which would then sort every session's answers instead of taking them as they come."""
_OUTCOME_COLUMNS = (
    ("unit", TEXT),
    ("variant", TEXT),
    ("flags", WHOLE),
    ("finished_at", NUMBER),
    ("duration_s", NUMBER),
)
_CONFLICTS = """
SELECT unit, variant, probability, bucket, exposed_at, config_hash, model_sha256
FROM exposure_conflicts
WHERE experiment = :experiment AND version = :version AND unit > :after AND unit <= :last {known}
ORDER BY unit, variant
"""
_CONFLICT_COLUMNS = (
    ("unit", TEXT),
    ("variant", TEXT),
    ("probability", NUMBER),
    ("bucket", WHOLE),
    ("exposed_at", NUMBER),
    ("config_hash", TEXT),
    ("model_sha256", TEXT),
)
_VOTES = """
SELECT metric, unit, value FROM ratings WHERE unit > :after AND unit <= :last
ORDER BY unit, metric, target, tenant
"""
_VOTE_COLUMNS = (("metric", TEXT), ("unit", TEXT), ("value", NUMBER))


class Task(NamedTuple):
    """What to compute of every piece."""

    experiment: str
    version: int
    until: int | None
    """Only events up to this place of the log; None for files that have no places."""
    measures: tuple[str, ...] = ()
    """Measures of outcomes whose sums are wanted."""
    votes: tuple[str, ...] = ()
    """Feedback metrics whose sums are wanted."""
    keys: tuple[str, ...] = ()
    """Keys by which sums are kept apart; none where no sums are wanted."""
    now: float = 0.0
    """Exposures after it lie in the future."""
    settled: float | None = None
    """Sessions exposed before it must have an outcome; None if it depends on the last exposure."""
    durations: bool = False
    """Whether every fresh answer's duration is wanted, for quantiles."""
    digest: bool = False
    """Whether the hash is wanted."""
    usual: tuple[Assignment, ...] = ()
    """Assignments that most exposures have, to read them faster."""


class Piece(NamedTuple):
    """A range of units: after one, up to another."""

    after: str
    last: str


class CellSums(NamedTuple):
    """Sums of one key, configuration, variant and population."""

    key_name: str
    key: Any
    config_hash: str
    variant: str
    clean: bool
    """Sessions seen in one arm only and always served by it: the per-protocol population."""
    counts: tuple[int, ...]
    """`sums.Counts`, of `missing` only what is certain."""
    pending: Floats
    """When the other sessions without an outcome were exposed."""
    moments: dict[str, tuple[float, ...]]
    """`sums.Moments` per measure."""


class Durations(NamedTuple):
    """Seconds of the fresh answers of one configuration and variant."""

    config_hash: str
    variant: str
    values: Floats
    """Session by session."""
    counts: npt.NDArray[Any]
    """Answers per session that has any, in the smallest type that holds them."""


class Result(NamedTuple):
    """What was found in a piece."""

    groups: list[Group]
    cells: list[CellSums]
    durations: list[Durations]
    digest: bytes


def compute(reader: Reader, ratings: Reader, task: Task, piece: Piece) -> Result:
    """Read a piece and compute what is wanted.

    Args:
        reader: Of the log.
        ratings: Of the votes that count, by session.
        task: What is wanted.
        piece: Which units.
    """
    values = {
        "experiment": task.experiment,
        "version": task.version,
        "after": piece.after,
        "last": piece.last,
    } | ({} if task.until is None else {"until": task.until})
    known = "" if task.until is None else "AND seq <= :until"

    def read(sql: str, columns: Any, more: Mapping[str, Any] | None = None) -> pa.Table:
        return reader.read(sql.format(known=known), {**values, **(more or {})}, pa.schema(columns))

    keys = tuple(key for key in task.keys if key in ("served_model", "tenant"))
    sessions = Sessions.read(read, task.usual, keys)
    if not (task.keys or task.durations or task.digest):
        return Result(sessions.groups(), [], [], b"")
    extra = columns_of(task.measures)
    outcomes = read(
        _OUTCOMES.format(known="{known}", more="".join(f", {name}" for name in extra)),
        (*_OUTCOME_COLUMNS, *((name, NUMBER) for name in extra)),
    )
    conflicts = read(_CONFLICTS, _CONFLICT_COLUMNS)
    bounds = {"after": piece.after, "last": piece.last}
    votes = ratings.read(_VOTES, bounds, pa.schema(_VOTE_COLUMNS))
    digest = hashlib.sha256()
    if task.digest:
        parts = (canonical(table) for table in (conflicts, outcomes, votes))
        for part in chain(sessions.canonical(), *parts):
            digest.update(part)
    answers = Answers.of(outcomes, places_in(outcomes["unit"], sessions.table["unit"]))
    return Result(
        groups=sessions.groups(),
        cells=_cells(sessions, answers, conflicts, votes, task) if task.keys else [],
        durations=_durations(sessions, answers) if task.durations else [],
        digest=digest.digest(),
    )


def _durations(sessions: Sessions, answers: Answers) -> list[Durations]:
    """Return the durations of fresh answers, per configuration and variant."""
    wanted = fresh(answers)
    session, seconds = answers.session[wanted], answers.duration_s[wanted]
    found = []
    for members in _classes(sessions.config.codes[session], sessions.variant.codes[session]):
        first = session[members[0]]
        counts = np.bincount(session[members])
        counts = counts[counts > 0]
        found.append(
            Durations(
                config_hash=sessions.config.names[sessions.config.codes[first]],
                variant=sessions.variant.names[sessions.variant.codes[first]],
                values=seconds[members],
                counts=counts.astype(np.min_scalar_type(int(counts.max()))),
            )
        )
    return found


_FEW = 16
"""Classes up to which looking for each is quicker than sorting."""


def _classes(*codes: Ints) -> list[Ints]:
    """Return the rows that have the same codes together, each class in the order of the rows."""
    if not len(codes[0]):
        return []
    cell, n = _dense(codes)
    if n <= _FEW:
        return [np.flatnonzero(cell == i) for i in range(n)]
    order = np.argsort(cell, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(cell[order])) + 1)


def _dense(codes: Sequence[Ints]) -> tuple[Ints, int]:
    """Return a number per row that is the same where all codes are, from 0, and how many there are.

    In the order of the codes. Counting instead of sorting: there are few, whatever the rows.
    """
    combined = codes[0]
    for more in codes[1:]:
        combined = combined * (int(more.max(initial=0)) + 1) + more
    present = np.flatnonzero(np.bincount(combined))
    numbers = np.empty(int(present[-1]) + 1 if len(present) else 0, dtype=np.int64)
    numbers[present] = np.arange(len(present))
    return numbers[combined], len(present)


def _cells(
    sessions: Sessions, answers: Answers, conflicts: pa.Table, votes: pa.Table, task: Task
) -> list[CellSums]:
    n = sessions.n
    foreign = _foreign(sessions.variant, answers)
    early = answers.finished_at < sessions.exposed_at[answers.session] - _SKEW_S
    impossible = ~((answers.duration_s >= 0) & (answers.duration_s <= LONGEST_S))
    two_arms = np.zeros(n, dtype=bool)
    places = places_in(conflicts["unit"], sessions.table["unit"])
    two_arms[places[places >= 0]] = True

    def per_unit(which: Flags) -> Ints:
        return np.bincount(answers.session[which], minlength=n)

    n_answers = np.bincount(answers.session, minlength=n)
    n_foreign = per_unit(foreign)
    counted = {
        "outcomes": n_answers,
        "errors": per_unit(answers.error),
        "aborts": per_unit(answers.aborted),
        "shared": per_unit(answers.shared),
        "foreign": n_foreign,
        "early": per_unit(early),
        "impossible": per_unit(impossible),
        "future": (sessions.exposed_at > task.now).astype(np.int64),
    }
    clean = ~two_arms & (n_foreign == 0)
    unanswered = n_answers == 0
    missing = unanswered & (sessions.exposed_at < _certain(sessions, task))
    pending = unanswered & ~missing
    counted["missing"] = missing.astype(np.int64)
    pairs = {name: per_session(name, answers, n) for name in task.measures}
    pairs |= {metric: _rated(metric, votes, sessions) for metric in task.votes}
    found = []
    for key_name in task.keys:
        key = key_of(key_name, sessions.table)
        parts = (sessions.variant.codes, sessions.config.codes, key.codes, clean.astype(np.int64))
        first, cell = _numbered(parts)
        n_cells = len(first)
        units = np.bincount(cell, minlength=n_cells)
        sums = [units, *(_totals(counted[name], cell, n_cells) for name in _COUNTS)]
        counts = list(zip(*(column.astype(np.int64).tolist() for column in sums), strict=True))
        moments = {
            name: list(zip(*(c.tolist() for c in _moments(x, y, cell, n_cells)), strict=True))
            for name, (x, y) in pairs.items()
        }
        waiting = {
            int(cell[rows[0]]): sessions.exposed_at[rows]
            for rows in map(np.flatnonzero(pending).take, _classes(cell[pending]))
        }
        found += [
            CellSums(
                key_name=key_name,
                key=key.names[key.codes[row]],
                config_hash=sessions.config.names[sessions.config.codes[row]],
                variant=sessions.variant.names[sessions.variant.codes[row]],
                clean=bool(clean[row]),
                counts=counts[i],
                pending=waiting.get(i, _NONE),
                moments={name: rows[i] for name, rows in moments.items()},
            )
            for i, row in enumerate(first)
        ]
    return found


_COUNTS = (
    *("missing", "future", "outcomes", "errors", "aborts", "shared", "foreign", "early"),
    "impossible",
)
"""`sums.Counts` after the units, in its order."""
_NONE = np.empty(0)


def _numbered(codes: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Return the cells of the sessions: the first session of each, and each session's cell."""
    cell, n = _dense(codes)
    first = np.empty(n, dtype=np.int64)
    first[cell[::-1]] = np.arange(len(cell))[::-1]  # the first row is written last
    return first, cell


def _totals(column: Ints | Floats, cell: Ints, n: int) -> Floats:
    """Return the sum of a column per cell, taken from the first session to the last.

    `numpy.sum` takes several at once, how many depends on the processor; this does not.
    """
    return np.bincount(cell, weights=column, minlength=n).astype(np.float64)


def _foreign(variant: Coded, answers: Answers) -> Flags:
    """Return which answers came from another variant than the session's."""
    # The two columns number the variants on their own.
    places = {name: i for i, name in enumerate(variant.names)}
    same = np.array([places.get(name, -1) for name in answers.variant.names] or [-1])
    differs: Flags = same[answers.variant.codes] != variant.codes[answers.session]
    return differs


def _certain(sessions: Sessions, task: Task) -> Floats | float:
    """Return the moment before which a session must have an outcome, whatever other pieces say."""
    if task.settled is not None:
        return task.settled
    latest = np.full(len(sessions.config.names), -np.inf)
    np.maximum.at(latest, sessions.config.codes, sessions.exposed_at)
    return latest[sessions.config.codes] - SETTLED_S


def _rated(metric: str, votes: pa.Table, sessions: Sessions) -> tuple[Floats, Floats]:
    """Return x and y of a feedback metric: the session's mean vote, and 1 where there is any."""
    which = among(votes["metric"], metric)
    places = places_in(votes["unit"], sessions.table["unit"])
    counts = which & (places >= 0)
    n_votes = np.bincount(places[counts], minlength=sessions.n)
    sums = np.bincount(places[counts], weights=floats(votes["value"])[counts], minlength=sessions.n)
    return sums / np.maximum(n_votes, 1), (n_votes > 0).astype(np.float64)


def _moments(x: Floats, y: Floats, cell: Ints, n: int) -> tuple[Floats, ...]:
    """Return `sums.Moments` per cell, over the sessions that have y."""
    has = y > 0
    x, y, cell = x[has], y[has], cell[has]
    columns = (np.ones(len(x)), (x > 0).astype(np.float64), x, x * x, y, y * y, x * y)
    return tuple(_totals(column, cell, n) for column in columns)
