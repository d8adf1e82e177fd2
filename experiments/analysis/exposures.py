"""The exposures of a piece: a session each, in the order of their units.

Variant, configuration, model and probability are the same few over and over: an *assignment* each.
Reading four texts a row costs more than all else, so SQLite is told the usual assignments and says
the number of each row's; rows of others, usually none, are asked for again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from experiments.analysis.columns import (
    NUMBER,
    TEXT,
    WHOLE,
    Coded,
    Floats,
    Ints,
    canonical,
    floats,
    table_of,
)
from experiments.analysis.log import Log

_SAMPLE = 2_000
"""Sessions in which the usual assignments are looked for."""
_USUAL = 12
"""Assignments that SQLite is told, the most frequent ones; each costs every row a comparison."""

_USUAL_ONES = f"""
SELECT variant, config_hash, model_sha256, probability FROM (
    SELECT variant, config_hash, model_sha256, probability FROM exposures
    WHERE experiment = :experiment AND version = :version ORDER BY unit LIMIT {_SAMPLE}
) AS first_ones
GROUP BY variant, config_hash, model_sha256, probability
ORDER BY COUNT(*) DESC, variant, config_hash, model_sha256, probability LIMIT {_USUAL}
"""  # noqa: S608 (own numbers)
_WHERE = """
FROM exposures
WHERE experiment = :experiment AND version = :version AND unit > :after AND unit <= :last {known}
"""
_EXPOSURES = f"SELECT unit, {{number}}, bucket, exposed_at {{more}} {_WHERE} ORDER BY unit"
_COLUMNS = (("unit", TEXT), ("assignment", WHOLE), ("bucket", WHOLE), ("exposed_at", NUMBER))
_UNUSUAL = (
    "SELECT variant, config_hash, model_sha256, probability "
    f"{_WHERE} AND {{number}} IS NULL ORDER BY unit"
)
_UNUSUAL_COLUMNS = (
    ("variant", TEXT),
    ("config_hash", TEXT),
    ("model_sha256", TEXT),
    ("probability", NUMBER),
)

Read = Callable[[str, Sequence[tuple[str, pa.DataType]], Mapping[str, Any]], pa.Table]
"""Reads columns of the log: SQL, names and types, and what the SQL names beside the piece."""


class Assignment(NamedTuple):
    """What exposures have in common."""

    variant: str
    config_hash: str
    model_sha256: str
    probability: float


class Group(NamedTuple):
    """Exposures of one configuration, variant, probability and model."""

    config_hash: str
    variant: str
    probability: float
    model_sha256: str
    n_units: int
    first_at: float
    last_at: float
    first_unit: str
    last_unit: str


def usual_assignments(log: Log, experiment: str, version: int) -> tuple[Assignment, ...]:
    """Return the assignments that most exposures have.

    What is read depends on it only in how fast: any assignments would do, and none.

    Args:
        log: The event file.
        experiment: Its name.
        version: Its version.
    """
    found = log.rows(_USUAL_ONES, {"experiment": experiment, "version": version})
    return tuple(Assignment(*row) for row in found)


class Sessions:
    """The exposures of a piece."""

    def __init__(self, table: pa.Table, assignments: Sequence[Assignment], codes: Ints) -> None:
        self.table = table
        self.n = table.num_rows
        self.exposed_at: Floats = floats(table["exposed_at"])
        self._assignments = assignments
        self._codes = codes
        self.variant = self._coded([one.variant for one in assignments])
        self.config = self._coded([one.config_hash for one in assignments])

    @classmethod
    def read(cls, read: Read, usual: Sequence[Assignment], more: Sequence[str]) -> "Sessions":
        """Read the exposures of a piece.

        Args:
            read: Reads columns.
            usual: Assignments that most exposures have.
            more: Further columns of texts.
        """
        number, values = _number(usual)
        table = read(
            _EXPOSURES.format(
                number=number, known="{known}", more="".join(f", {name}" for name in more)
            ),
            (*_COLUMNS, *((name, TEXT) for name in more)),
            values,
        )
        assignments = list(usual)
        codes = _filled(table["assignment"])
        unusual = codes < 0
        if unusual.any():
            sql = _UNUSUAL.format(number=number, known="{known}")
            others = read(sql, _UNUSUAL_COLUMNS, values)
            columns = (column.to_pylist() for column in others.columns)
            numbers: dict[Assignment, int] = {}
            codes[unusual] = [
                numbers.setdefault(Assignment(*row), len(usual) + len(numbers))
                for row in zip(*columns, strict=True)
            ]
            assignments += numbers
        return cls(table.drop_columns("assignment"), *_by_appearance(assignments, codes))

    def canonical(self) -> Iterator[bytes]:
        """Yield bytes that stand for the exposures, and for nothing else."""
        rows = [tuple(one) for one in self._assignments]
        yield from canonical(table_of(rows, pa.schema(_UNUSUAL_COLUMNS)))
        yield self._codes.astype("<i4").tobytes()
        yield from canonical(self.table)

    def groups(self) -> list[Group]:
        """Return the exposures in groups."""
        units = self.table["unit"]
        found = []
        for number, one in enumerate(self._assignments):
            members = np.flatnonzero(self._codes == number)
            at = self.exposed_at[members]
            found.append(
                Group(
                    config_hash=one.config_hash,
                    variant=one.variant,
                    probability=one.probability,
                    model_sha256=one.model_sha256,
                    n_units=len(members),
                    first_at=float(at.min()),
                    last_at=float(at.max()),
                    first_unit=units[int(members[0])].as_py(),
                    last_unit=units[int(members[-1])].as_py(),
                )
            )
        return found

    def _coded(self, texts: Sequence[str]) -> Coded:
        """Return a column of which every assignment has one text."""
        names = {name: i for i, name in enumerate(dict.fromkeys(texts))}
        numbers = np.array([names[text] for text in texts], dtype=np.int64)
        return Coded(numbers[self._codes], tuple(names))


def _number(usual: Sequence[Assignment]) -> tuple[str, dict[str, Any]]:
    """Return an expression for the number of a row's assignment, or NULL, and what it names."""
    values: dict[str, Any] = {}
    cases = ""
    for i, one in enumerate(usual):
        values |= {f"{name}_{i}": value for name, value in one._asdict().items()}
        cases += f"WHEN {' AND '.join(f'{name} = :{name}_{i}' for name in one._fields)} THEN {i} "
    return (f"CASE {cases}END" if cases else "NULL"), values


def _filled(column: pa.ChunkedArray) -> Ints:
    """Return the numbers of a column, -1 where there is none; a copy."""
    return np.array(column.fill_null(-1).to_numpy(), dtype=np.int64)


def _by_appearance(assignments: Sequence[Assignment], codes: Ints) -> tuple[list[Assignment], Ints]:
    """Return the assignments that occur, numbered as they appear, whoever numbered them before."""
    first = np.full(len(assignments), len(codes), dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # the first row is written last
    order = [int(i) for i in np.argsort(first, kind="stable") if first[i] < len(codes)]
    numbers = np.zeros(len(assignments), dtype=np.int64)
    numbers[order] = np.arange(len(order))
    return [assignments[i] for i in order], numbers[codes]
