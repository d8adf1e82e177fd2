"""A piece of the log as columns: what two ways of reading it have in common.

Small logs are read by Python's own driver in the caller's process and transaction. Large ones are
read by worker processes through Arrow's driver, which makes no Python object per value and is five
times as fast. It brings its own copy of SQLite, and two copies must not have one file open in one
process (closing it in one would drop the other's locks): so it is used in workers only.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Letters = npt.NDArray[np.uint8]

TEXT, WHOLE, NUMBER = pa.string(), pa.int64(), pa.float64()
_ROWS, _MAX_ROWS = 1 << 16, 1 << 24
"""Arrow's driver guesses a column's type from the first rows, and sets aside memory for so many:
the fewer the cheaper, but they have to be all."""


class Reader(Protocol):
    """Reads rows as columns."""

    def read(self, sql: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """Return the rows of a query, one chunk per column.

        Args:
            sql: Names its parameters `:name`.
            parameters: Their values.
            schema: Names and types of the result's columns, in order.
        """
        ...


class RowReader:
    """Reads by Python's driver, in the transaction of a connection that is open already."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def read(self, sql: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """Return the rows of a query."""
        return table_of(self._db.execute(sql, parameters).fetchall(), schema)


def table_of(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as columns."""
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


class ArrowReader:
    """Reads by Arrow's driver."""

    def __init__(self, db: Any) -> None:  # of a package without types
        self._db = db
        self._take(_ROWS)

    def read(self, sql: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """Return the rows of a query."""
        found = self._found(sql, _by_position(sql, parameters)).combine_chunks()
        return pa.table(
            [
                found.column(i).cast(field.type) if found.num_rows else pa.array([], field.type)
                for i, field in enumerate(schema)
            ],
            schema=schema,
        )

    def _found(self, sql: str, values: list[Any]) -> pa.Table:
        while True:
            try:
                self._cursor.execute(sql, values)
                found = self._cursor.fetch_arrow_table()
                if found.num_rows <= self._rows or self._rows >= _MAX_ROWS:
                    return found
            except Exception:  # a later value is not of the type of the first ones
                if self._rows >= _MAX_ROWS:
                    raise
            self.close()
            self._take(min(self._rows * 8, _MAX_ROWS))

    def close(self) -> None:
        """End what was read last."""
        self._cursor.close()

    def _take(self, rows: int) -> None:
        """Let types be guessed from so many rows."""
        # A new one: after an error the old one would go on where it was.
        self._cursor = self._db.cursor()
        self._cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": rows})
        self._rows = rows


@contextmanager
def arrow_reader(path: Path) -> Iterator[ArrowReader]:
    """Open a file for reading by Arrow's driver; only for processes that open it no other way."""
    from adbc_driver_sqlite import dbapi

    with (
        dbapi.connect(f"{path.absolute().as_uri()}?mode=ro", autocommit=True) as db,
        closing(ArrowReader(db)) as reader,
    ):
        yield reader


def _by_position(sql: str, parameters: Mapping[str, Any]) -> list[Any]:
    """Return the values in the order in which SQLite numbers the names of a query."""
    found: dict[str, Any] = {}
    for part in sql.split(":")[1:]:
        name = part
        for i, character in enumerate(part):
            if not (character.isalnum() or character == "_"):
                name = part[:i]
                break
        if name:
            found.setdefault(name, parameters[name])
    return list(found.values())


class Coded(NamedTuple):
    """Texts of few kinds: a number per row, and what the numbers mean."""

    codes: Ints
    names: tuple[str, ...]


def coded(column: pa.ChunkedArray) -> Coded:
    """Return a column of texts as codes."""
    encoded = _one_chunk(column).dictionary_encode()
    return Coded(
        encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        tuple(encoded.dictionary.to_pylist()),
    )


def floats(column: pa.ChunkedArray) -> Floats:
    """Return a column of numbers; NaN where there is none."""
    found = _one_chunk(column).to_numpy(zero_copy_only=False)
    numbers: Floats = found.astype(np.float64, copy=False)
    return numbers


def integers(column: pa.ChunkedArray) -> Ints:
    """Return a column of integers, none of them missing."""
    found: Ints = _one_chunk(column).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return found


def among(column: pa.ChunkedArray, *names: str) -> Flags:
    """Return where a column of texts is one of these."""
    found: Flags = pc.is_in(column, pa.array(names, TEXT)).to_numpy()
    return found


def places_in(column: pa.ChunkedArray, keys: pa.ChunkedArray) -> Ints:
    """Return, per row, the place of its text among the keys; -1 where it is not there."""
    if not len(column):
        return np.empty(0, dtype=np.int64)  # sparing the table of all keys
    places = _places_of_one_length(_letters(_one_chunk(column)), _letters(_one_chunk(keys)))
    if places is None:
        found = pc.index_in(column, _one_chunk(keys)).fill_null(-1)
        places = found.to_numpy().astype(np.int64)
    return places


_KEY_BYTES = 8
"""What of a text is compared as a number."""


def _places_of_one_length(texts: Letters | None, keys: Letters | None) -> Ints | None:
    """Return what `places_in` does, for sorted texts of one length; None where that cannot be.

    Sessions come in their order and mostly have names of one length: then a search by eight bytes
    behind what all names begin with is several times as fast as a table of all names.
    """
    if texts is None or keys is None or texts.shape[1] != keys.shape[1]:
        return None
    differs = keys[0] != keys[-1]
    start = min(int(differs.argmax()), keys.shape[1] - _KEY_BYTES)
    numbers = _numbers(keys, start)
    if not (numbers[1:] > numbers[:-1]).all():
        return None
    places = np.searchsorted(numbers, _numbers(texts, start)).clip(max=len(keys) - 1)
    return np.where((texts == keys[places]).all(axis=1), places, -1).astype(np.int64)


def _letters(array: pa.StringArray) -> Letters | None:
    """Return texts as a row of bytes each; None if they have not one length, or are too short."""
    if array.null_count or not len(array):
        return None
    data = np.frombuffer(_text_bytes(array), dtype=np.uint8)
    width = len(data) // len(array)
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset :][: len(array) + 1]
    if width < _KEY_BYTES or (np.diff(offsets) != width).any():
        return None
    return data.reshape(len(array), width)


def _numbers(letters: Letters, start: int) -> npt.NDArray[np.uint64]:
    """Return eight bytes of every row as a number; numbers have the order of the bytes."""
    part = np.ascontiguousarray(letters[:, start : start + _KEY_BYTES])
    return part.view(">u8").ravel().astype(np.uint64)


def canonical(table: pa.Table) -> Iterator[bytes]:
    """Yield bytes that stand for the values of a table, column by column, and for nothing else."""
    yield table.num_rows.to_bytes(8, "little")
    for column in table.columns:
        array = _one_chunk(column)
        yield array.null_count.to_bytes(8, "little")
        if array.null_count:
            yield np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes()
        if pa.types.is_string(array.type):
            texts = array.fill_null("")
            yield pc.binary_length(texts).to_numpy(zero_copy_only=False).astype("<i4").tobytes()
            yield bytes(_text_bytes(texts))
        else:
            kind = "<i8" if pa.types.is_integer(array.type) else "<f8"
            yield array.fill_null(0).to_numpy(zero_copy_only=False).astype(kind).tobytes()


def _text_bytes(array: pa.StringArray) -> memoryview:
    """Return the texts of an array, end to end."""
    _, offsets, data = array.buffers()
    if data is None:
        return memoryview(b"")
    bounds = np.frombuffer(offsets, dtype=np.int32)
    first, last = bounds[array.offset], bounds[array.offset + len(array)]
    return memoryview(data)[first:last]


def _one_chunk(column: Any) -> Any:
    """Return a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column
