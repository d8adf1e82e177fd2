"""Sufficient statistics of the outcomes, aggregated by SQL: the log never comes into memory.

The inner query makes one row per session in the order of the primary key, the outer one adds them
up per arm, key (a day, a slice) and population. Sums add, so a day, a week and the whole are the
same numbers added differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from experiments.analysis.log import OUTCOMES_OF_UNIT, Log, Scope
from experiments.analysis.measures import LONGEST_S, Measure

DAY = "CAST(e.exposed_at / 86400 AS INTEGER)"
"""Key: UTC day of the first exposure, as days since the epoch."""

_SKEW_S = 60.0
"""An outcome may end this long before its exposure by another node's clock."""


class Moments(NamedTuple):
    """Sums of one measure over the sessions that have it."""

    n: int = 0
    """Sessions with y > 0."""
    positive: int = 0
    """Of them, those with x > 0."""
    x: float = 0.0
    xx: float = 0.0
    y: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    def plus(self, other: "Moments") -> "Moments":
        """Return the sums of both groups of sessions together."""
        return Moments(
            self.n + other.n,
            self.positive + other.positive,
            self.x + other.x,
            self.xx + other.xx,
            self.y + other.y,
            self.yy + other.yy,
            self.xy + other.xy,
        )


class Counts(NamedTuple):
    """What is counted beside the measures."""

    units: int = 0
    missing: int = 0
    """Sessions without any outcome, although there was time for one."""
    future: int = 0
    outcomes: int = 0
    errors: int = 0
    aborts: int = 0
    shared: int = 0
    """Cache hits and joins."""
    foreign: int = 0
    """Requests that another variant than the session's answered."""
    early: int = 0
    impossible: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return the counts of both groups together."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm, one key, one population."""

    treatment: bool
    key: Any
    clean: bool
    """Sessions seen in one arm only and always served by it: the per-protocol population."""
    counts: Counts = field(default_factory=Counts)
    moments: dict[str, Moments] = field(default_factory=dict)


class Clock(NamedTuple):
    """Moments that the counting of faults needs."""

    now: float
    """Exposures after it lie in the future."""
    settled: float
    """Sessions exposed before it must have an outcome by now."""


def aggregate(
    log: Log, scope: Scope, measures: Sequence[Measure], clock: Clock, *, key: str = DAY
) -> list[Cell]:
    """Return the sums of all arms, keys and populations.

    Args:
        log: The event file.
        scope: What is analysed.
        measures: Measures of outcomes, without quantiles.
        clock: For faults.
        key: SQL over the exposure `e`, one of this package's own expressions.
    """
    per_unit = "".join(
        f", COALESCE({measure.x}, 0) AS x{i}, {measure.y} AS y{i}"
        for i, measure in enumerate(measures)
    )
    totals = "".join(_totals(i) for i in range(len(measures)))
    sql = f"""
    SELECT treatment, key, clean, COUNT(*), SUM(missing), SUM(future), SUM(n_outcomes),
        SUM(errors), SUM(aborts), SUM(shared), SUM(foreign_), SUM(early), SUM(impossible) {totals}
    FROM (
        SELECT e.variant = :treatment AS treatment, {key} AS key,
            {CLEAN} AS clean,
            COUNT(o.inference_id) AS n_outcomes,
            COUNT(o.inference_id) = 0 AND e.exposed_at < :settled AS missing,
            e.exposed_at > :now AS future,
            COUNT(*) FILTER (WHERE o.status = 'error') AS errors,
            COUNT(*) FILTER (WHERE o.status = 'aborted') AS aborts,
            COUNT(*) FILTER (WHERE o.cache IN ('hit', 'join')) AS shared,
            COUNT(*) FILTER (WHERE o.variant <> e.variant) AS foreign_,
            COUNT(*) FILTER (WHERE o.finished_at < e.exposed_at - {_SKEW_S}) AS early,
            COUNT(*) FILTER (WHERE NOT o.duration_s BETWEEN 0 AND {LONGEST_S}) AS impossible
            {per_unit}
        FROM exposures AS e LEFT JOIN {OUTCOMES_OF_UNIT}
        WHERE {scope.where}
        GROUP BY e.unit
    )
    GROUP BY treatment, key, clean ORDER BY treatment, key, clean
    """  # noqa: S608 (own expressions; values are parameters)
    values = scope.parameters() | {"now": clock.now, "settled": clock.settled}
    width, first = len(Moments._fields), 3 + len(Counts._fields)
    return [
        Cell(
            treatment=bool(row[0]),
            key=row[1],
            clean=bool(row[2]),
            counts=Counts(*row[3:first]),
            moments={
                measure.name: Moments(*row[first + width * i : first + width * (i + 1)])
                for i, measure in enumerate(measures)
            },
        )
        for row in log.rows(sql, values)
    ]


CLEAN = """
NOT EXISTS (
    SELECT 1 FROM exposure_conflicts AS c WHERE c.experiment = :experiment
    AND c.version = :version AND c.unit = e.unit
) AND COUNT(*) FILTER (WHERE o.variant <> e.variant) = 0
"""
"""Whether a session was seen in one arm only, and always answered by it."""


def _totals(i: int) -> str:
    """Return the columns of `Moments` for measure number i."""
    has = f"FILTER (WHERE y{i} > 0)"
    columns = (f"x{i}", f"x{i} * x{i}", f"y{i}", f"y{i} * y{i}", f"x{i} * y{i}")
    sums = "".join(f", COALESCE(SUM({column}) {has}, 0)" for column in columns)
    return f", COUNT(*) {has}, COUNT(*) FILTER (WHERE y{i} > 0 AND x{i} > 0){sums}"


def multi_exposed(log: Log, scope: Scope) -> int:
    """Return the number of units of the scope that were also in another arm."""
    sql = f"""
    SELECT COUNT(*) FROM exposures AS e WHERE {scope.where} AND e.unit IN (
        SELECT unit FROM exposure_conflicts
        WHERE experiment = :experiment AND version = :version
    )
    """  # noqa: S608 (own expressions)
    return int(log.row(sql, scope.parameters())[0])
