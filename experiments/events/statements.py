"""How an event is stored, once for SQLite and PostgreSQL."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Select, Table, and_, bindparam, exists, not_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from experiments.events import tables
from experiments.events.records import (
    Enrolment,
    Event,
    Exposure,
    Feedback,
    Outcome,
    Transcript,
)

Insert = sqlite.Insert | postgresql.Insert
_PARAMETER = re.compile(r":(\w+)")
_MakeInsert = Callable[[Table], Any]  # of one of the two dialects; what follows is common to both


def storing(insert: _MakeInsert) -> dict[type[Event], tuple[Insert, ...]]:
    """Return what storing a record of each type takes, in this order.

    Parameters are the columns, by name. What is there already changes nothing.

    Args:
        insert: `sqlite.insert` or `postgresql.insert`.
    """
    first = tables.exposures
    other_arm = exists().where(
        first.c.experiment == _given(first, "experiment"),
        first.c.version == _given(first, "version"),
        first.c.unit == _given(first, "unit"),
        first.c.variant != _given(first, "variant"),
    )
    votes = tables.feedback
    key_taken = exists().where(
        and_(
            votes.c.idempotency == _given(votes, "idempotency"),
            votes.c.request_hash != _given(votes, "request_hash"),
        )
    )
    """Another body came first under the same Idempotency-Key. False for records without a key."""
    return {
        Exposure: (
            _once(insert, tables.exposures),
            _once(insert, tables.exposure_conflicts, other_arm),
        ),
        Enrolment: (_once(insert, tables.exposures),),
        Outcome: (_once(insert, tables.outcomes),),
        Feedback: (
            _once(insert, tables.feedback, not_(key_taken)),
            _once(insert, tables.feedback_conflicts, key_taken),
        ),
        Transcript: (_once(insert, tables.transcripts),),
    }


class Storing(NamedTuple):
    """How records of one type are stored in an event file."""

    texts: tuple[str, ...]
    """Statements, in this order. `?n` is the n-th field of the record, and the place in the log
    after the last: Python's driver looks names up for longer than SQLite inserts."""
    fields: Callable[[Event], tuple[Any, ...]]
    """Returns the fields of a record, in their order."""
    placed: bool
    """Whether the statements take a place."""

    def values(self, event: Event, place: int) -> tuple[Any, ...]:
        """Return what the statements take."""
        return (*self.fields(event), place) if self.placed else self.fields(event)


@cache
def sqlite_storing() -> dict[type[Event], Storing]:
    """Return what the writer's own connection does with records of each type."""
    return {
        record: _by_number(record, statements)
        for record, statements in storing(sqlite.insert).items()
    }


def _by_number(record: type[Event], statements: Sequence[Insert]) -> Storing:
    dialect = sqlite.dialect(paramstyle="named")
    named = [str(statement.compile(dialect=dialect)) for statement in statements]
    fields: tuple[str, ...] = (Exposure if record is Enrolment else record).__slots__
    numbers = {name: n for n, name in enumerate((*fields, "seq"), start=1)}
    return Storing(
        tuple(_PARAMETER.sub(lambda match: f"?{numbers[match[1]]}", text) for text in named),
        attrgetter(*(f"exposure.{name}" if record is Enrolment else name for name in fields)),
        placed=any(":seq" in text for text in named),
    )


def _once(
    insert: _MakeInsert, table: Table, condition: ColumnElement[bool] | None = None
) -> Insert:
    """Return the statement that stores a row if a condition holds and its key is not there."""
    statement = insert(table)
    if condition is None:
        statement = statement.values({c.name: _given(table, c.name) for c in table.columns})
    else:
        row: Select[Any] = select(*(_given(table, c.name) for c in table.columns)).where(condition)
        statement = statement.from_select([c.name for c in table.columns], row)
    result: Insert = statement.on_conflict_do_nothing(index_elements=list(table.primary_key))
    return result


def _given(table: Table, column: str) -> Any:
    return bindparam(column, type_=table.c[column].type)
