"""The key-value part of a GGUF file, read without its tensors.

gguf's own reader maps every string of an array separately: a minute for the 400,000 of a
vocabulary, a second here.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import gguf

_SCALARS = {
    gguf.GGUFValueType.UINT8: "B",
    gguf.GGUFValueType.INT8: "b",
    gguf.GGUFValueType.UINT16: "H",
    gguf.GGUFValueType.INT16: "h",
    gguf.GGUFValueType.UINT32: "I",
    gguf.GGUFValueType.INT32: "i",
    gguf.GGUFValueType.FLOAT32: "f",
    gguf.GGUFValueType.BOOL: "?",
    gguf.GGUFValueType.UINT64: "Q",
    gguf.GGUFValueType.INT64: "q",
    gguf.GGUFValueType.FLOAT64: "d",
}
_MAGIC, _VERSION = b"GGUF", 3


class Entry(NamedTuple):
    """One value, with the type that it is written with."""

    value: Any
    type: gguf.GGUFValueType
    item_type: gguf.GGUFValueType | None = None


def read_metadata(path: Path) -> dict[str, Entry]:
    """Return the key-value pairs of a file.

    Raises:
        ValueError: If it is no GGUF file of version 3.
    """
    with path.open("rb") as file:
        if file.read(4) != _MAGIC or _number(file, "I") != _VERSION:
            raise ValueError(f"{path} is no GGUF file of version {_VERSION}")
        _number(file, "Q")  # tensors
        return dict(_pair(file) for _ in range(_number(file, "Q")))


def _pair(file: BinaryIO) -> tuple[str, Entry]:
    key = _string(file)
    kind = gguf.GGUFValueType(_number(file, "I"))
    if kind is not gguf.GGUFValueType.ARRAY:
        return key, Entry(_reader(kind)(file), kind)
    item = gguf.GGUFValueType(_number(file, "I"))
    read = _reader(item)
    return key, Entry([read(file) for _ in range(_number(file, "Q"))], kind, item)


def _reader(kind: gguf.GGUFValueType) -> Callable[[BinaryIO], Any]:
    if kind is gguf.GGUFValueType.STRING:
        return _string
    code = _SCALARS[kind]
    return lambda file: _number(file, code)


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "Q")).decode("utf-8", "replace")


def _number(file: BinaryIO, code: str) -> Any:
    size = struct.calcsize(code)
    return struct.unpack(f"<{code}", file.read(size))[0]
