"""Sufficient statistics of the outcomes, added up piece by piece: the log never comes into memory.

A piece has sums per arm, key (a day, a slice) and population. Sums add, so a day, a week and the
whole are the same numbers added differently.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from experiments.analysis.keys import DAY
from experiments.analysis.log import Log, Scope
from experiments.analysis.measures import Measure
from experiments.analysis.pieces import CellSums, Task
from experiments.analysis.survey import survey


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
    period: int = 0
    """Index of the period, where the split moved and periods are kept apart."""
    counts: Counts = field(default_factory=Counts)
    moments: dict[str, Moments] = field(default_factory=dict)

    def plus(self, other: "Cell") -> "Cell":
        """Return the sums of both groups of sessions together, of the same arm and key."""
        return replace(
            self,
            counts=self.counts.plus(other.counts),
            moments={name: sums.plus(other.moments[name]) for name, sums in self.moments.items()},
        )


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
        key: One of `keys`.
    """
    task = Task(
        scope.experiment,
        scope.version,
        until=None,
        measures=tuple(measure.name for measure in measures),
        keys=(key,),
        now=clock.now,
        settled=clock.settled,
    )
    return cells_of(survey(log, task).cells, scope, clock, key=key)


def cells_of(
    found: Iterable[CellSums], scope: Scope, clock: Clock, *, key: str = DAY
) -> list[Cell]:
    """Return the sums of the pieces together.

    Args:
        found: Of the pieces, in their order.
        scope: What is analysed.
        clock: For faults.
        key: The one that is wanted.
    """
    cells: dict[tuple[bool, Any, bool], Cell] = {}
    for part in found:
        if part.key_name != key or not scope.has(part.config_hash, part.variant):
            continue
        counts = Counts(*part.counts)
        late = int((part.pending < clock.settled).sum())
        cell = Cell(
            treatment=part.variant == scope.treatment,
            key=part.key,
            clean=part.clean,
            counts=counts._replace(missing=counts.missing + late),
            moments={name: _moments(sums) for name, sums in part.moments.items()},
        )
        place = (cell.treatment, cell.key, cell.clean)
        cells[place] = cells[place].plus(cell) if place in cells else cell
    return [cells[place] for place in sorted(cells)]


def _moments(sums: Sequence[float]) -> Moments:
    n, positive, *rest = sums
    return Moments(int(n), int(positive), *rest)


def multi_exposed(log: Log, scope: Scope) -> int:
    """Return the number of units of the scope that were also in another arm."""
    # From the conflicts, which are few: joined the other way round every exposure is looked at.
    sql = f"""
    SELECT COUNT(DISTINCT e.unit) FROM exposure_conflicts AS c CROSS JOIN exposures AS e
    WHERE c.experiment = :experiment AND c.version = :version AND e.unit = c.unit AND {scope.where}
    """  # noqa: S608 (own expressions)
    return int(log.row(sql, scope.parameters())[0])
