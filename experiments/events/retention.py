"""Deleting old events, without touching what somebody still needs.

An experiment goes as a whole or stays: without its first weeks it would be another experiment. It
stays while it is declared, or anything of it is younger than the limit. Feedback stays with what it
is about. On a node, what the central database does not have yet stays too.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    tuple_,
)

from experiments.events import tables

_ROWS = 2_000
"""Rows of a transaction: a writer beside it waits for milliseconds."""


Reason = Literal["declared", "young", "unshipped"]


class Kept(NamedTuple):
    """An experiment that has old events and stays."""

    experiment: str
    version: int
    n_units: int
    reason: Reason


class Plan(NamedTuple):
    """What may be deleted."""

    experiments: tuple[tuple[str, int], ...]
    """Names and versions, to be deleted whole."""
    kept: tuple[Kept, ...]
    shipped_up_to: int | None
    """Only events up to this place; None where nothing is shipped."""


class Deleted(NamedTuple):
    """Rows that are gone, or would be."""

    table: str
    n_rows: int


def plan(
    engine: Engine,
    *,
    before: float,
    declared: Collection[tuple[str, int]],
    unshipped: bool,
    ships: bool = False,
) -> Plan:
    """Decide what may go.

    Args:
        engine: From `opened`.
        before: Events before this moment, seconds since the epoch.
        declared: Names and versions of the experiments that are declared now.
        unshipped: Whether events may go that the central database does not have.
        ships: Whether this file is to be shipped. Then what never was is not shipped either.
    """
    first = tables.exposures
    with engine.connect() as db:
        place = None
        if engine.dialect.name == "sqlite" and not unshipped:
            place = db.execute(select(func.min(tables.shipments.c.seq))).scalar()
            if place is None and ships:
                place = 0
        last_exposures = db.execute(
            select(
                first.c.experiment,
                first.c.version,
                func.max(first.c.exposed_at),
                func.max(first.c.seq),
                func.count(),
            ).group_by(first.c.experiment, first.c.version)
        ).all()
        going, kept = [], []
        for name, version, last_at, last_seq, n_units in last_exposures:
            reason: Reason | None = None
            if (name, version) in declared:
                reason = "declared"
            elif last_at >= before or _young_outcomes(db, name, version, before):
                reason = "young"
            elif place is not None and last_seq > place:
                reason = "unshipped"
            if reason is not None:
                kept.append(Kept(name, version, n_units, reason))
            else:
                going.append((name, version))
    return Plan(tuple(going), tuple(kept), place)


def prune(
    engine: Engine,
    what: Plan,
    *,
    before: float,
    dry_run: bool,
    told: Callable[[str, int], Any] = lambda *_: None,
) -> list[Deleted]:
    """Delete, in short transactions.

    Args:
        engine: From `opened`, for writing.
        what: From `plan`.
        before: As for `plan`.
        dry_run: Only count; the feedback that goes with answers is then counted as if they stayed.
        told: Told the table and its number of deleted rows, as they grow.

    Returns:
        Rows per table.
    """
    found = []
    for table, condition in _conditions(what, before):
        shipped = true() if what.shipped_up_to is None else table.c.seq <= what.shipped_up_to
        goes = and_(condition, shipped)
        n_rows = 0
        with engine.connect() as db:
            if dry_run:
                n_rows = db.execute(
                    select(func.count()).select_from(table).where(goes)
                ).scalar_one()
            else:
                for piece in _pieces(db, table, goes):
                    db.commit()
                    if db.dialect.name == "sqlite":
                        db.exec_driver_sql("BEGIN IMMEDIATE")
                    n_rows += db.execute(delete(table).where(piece)).rowcount
                    db.commit()
                    told(table.name, n_rows)
        found.append(Deleted(table.name, n_rows))
    return found


def _young_outcomes(db: Connection, name: str, version: int, before: float) -> bool:
    of = tables.outcomes.c
    query = select(of.inference_id).where(
        of.experiment == name, of.version == version, of.finished_at >= before
    )
    return db.execute(query.limit(1)).first() is not None


def _pieces(
    db: Connection, table: Table, goes: ColumnElement[bool]
) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that together cover the rows, each some of them, in the order of the key.

    Walking along the key, every row is looked at once, those that stay too.
    """
    key = tuple_(*table.primary_key)
    behind: ColumnElement[bool] = true()
    while True:
        some = select(*table.primary_key).where(and_(goes, behind)).order_by(*table.primary_key)
        last = db.execute(some.offset(_ROWS - 1).limit(1)).first()
        if last is None:
            yield and_(goes, behind)
            return
        yield and_(goes, behind, key <= tuple_(*last))
        behind = key > tuple_(*last)


def _conditions(what: Plan, before: float) -> Sequence[tuple[Table, ColumnElement[bool]]]:
    """Return which rows go, tables in order: first experiments, then what refers to them."""
    answers, units, votes = tables.outcomes, tables.exposures, tables.feedback

    def ended(table: Table) -> ColumnElement[bool]:
        return tuple_(table.c.experiment, table.c.version).in_(what.experiments)

    staying = exists().where(
        units.c.experiment == answers.c.experiment, units.c.version == answers.c.version
    )
    loose = and_(answers.c.finished_at < before, ~staying)
    conditions: list[tuple[Table, ColumnElement[bool]]] = [
        (table, ended(table)) for table in (tables.exposure_conflicts, units)
    ]
    conditions.append((answers, or_(ended(answers), loose)))
    for table in (votes, tables.feedback_conflicts):
        about_something = or_(
            exists().where(answers.c.inference_id == table.c.target),
            exists().where(units.c.unit == table.c.target),
        )
        conditions.append((table, and_(table.c.received_at < before, ~about_something)))
    return conditions
