"""Canonical JSON of evidence and decisions: equal data, equal bytes, on every machine."""

import dataclasses
import hashlib
import json
from typing import Any, TypeVar

from pydantic import TypeAdapter

from experiments.decision.evidence import SCHEMA_VERSION

T = TypeVar("T")

_EXACT = 2.0**53
"""Whole doubles below this are exact integers."""


class UnreadableRecord(ValueError):
    """A record is not valid JSON of its type, or was written by a newer version."""


def to_json(record: object, *, indent: int | None = None) -> str:
    """Write a dataclass as canonical JSON.

    Keys sorted, UTF-8, shortest round-trip floats, whole numbers without a fraction (so that 9 and
    9.0 in a float field are the same bytes), no NaN or infinity, one trailing newline if indented.
    Hashes are taken without indentation.

    Args:
        record: Instance of a dataclass of plain values.
        indent: Spaces for people; None for the canonical form.

    Raises:
        ValueError: If a number is not finite.
    """
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"{type(record).__name__} is not an instance of a dataclass")
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        _plain(dataclasses.asdict(record)),
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        indent=indent,
        separators=separators,
    )
    return text if indent is None else text + "\n"


def digest(record: object) -> str:
    """Return the SHA-256 of the canonical JSON, hexadecimal."""
    return hashlib.sha256(to_json(record).encode()).hexdigest()


def from_json(kind: type[T], text: str | bytes) -> T:
    """Read a record.

    Args:
        kind: Dataclass with a `schema_version`.
        text: JSON, canonical or not.

    Raises:
        UnreadableRecord: If it does not fit or is newer than this code.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        record = adapter.validate_json(text)
    except ValueError as error:
        raise UnreadableRecord(f"not a valid {kind.__name__}: {error}") from error
    if record.schema_version > SCHEMA_VERSION:
        raise UnreadableRecord(
            f"{kind.__name__} has schema_version {record.schema_version}; this code reads up to "
            f"{SCHEMA_VERSION}. Update carril"
        )
    return record  # type: ignore[no-any-return]  # TypeAdapter[Any] returns Any


def _plain(value: object) -> object:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if value.is_integer() and abs(value) < _EXACT:
            return int(value)
        case _:
            return value
