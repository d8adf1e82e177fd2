"""The few numbers of a GGUF file that its memory depends on.

Only the header is read, with the standard library: the command line must not load llama.cpp. The
engine computes the same from the loaded model; this is the estimate before loading.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_MAX_KEYS = 10_000
_MAX_STRING_BYTES = 16 << 20
_MAX_ARRAY_ITEMS = 16 << 20


class HeaderError(ValueError):
    """Not a GGUF file, or one that claims impossible sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Dimensions of the attention cache."""

    n_layers: int
    n_kv_heads: int
    head_size: int

    def kv_token_bytes(self, bytes_per_value: float = 2.0) -> int:
        """Return the cache memory of one token: a key and a value per layer and head."""
        return int(2 * self.n_layers * self.n_kv_heads * self.head_size * bytes_per_value)


def read_shape(path: Path) -> ModelShape:
    """Read the dimensions of a model.

    Raises:
        HeaderError: If the file is no GGUF, or says nothing about them.
    """
    try:
        with path.open("rb") as file:
            values = _read_scalars(file)
    except (OSError, struct.error) as error:
        raise HeaderError(f"{path}: {error}") from error
    architecture = values.get("general.architecture")
    try:
        n_heads = _number(values, f"{architecture}.attention.head_count")
        n_embedding = _number(values, f"{architecture}.embedding_length")
        return ModelShape(
            n_layers=_number(values, f"{architecture}.block_count"),
            n_kv_heads=_number(values, f"{architecture}.attention.head_count_kv", n_heads),
            head_size=_number(
                values, f"{architecture}.attention.key_length", n_embedding // max(n_heads, 1)
            ),
        )
    except KeyError as error:
        raise HeaderError(f"{path}: the header has no {error}") from error


def _read_scalars(file: BinaryIO) -> dict[str, object]:
    if file.read(4) != _MAGIC:
        raise HeaderError("no GGUF file")
    _version, _tensors, n_keys = struct.unpack("<IQQ", file.read(20))
    if n_keys > _MAX_KEYS:
        raise HeaderError(f"claims {n_keys} keys")
    values: dict[str, object] = {}
    for _ in range(n_keys):
        key = _read_string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        value = _read_value(file, kind)
        if value is not None:
            values[key] = value
    return values


def _read_value(file: BinaryIO, kind: int) -> object:
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        _skip_array(file)
        return None
    if kind not in _SCALARS:
        raise HeaderError(f"unknown value type {kind}")
    layout = f"<{_SCALARS[kind]}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def _read_string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _MAX_STRING_BYTES:
        raise HeaderError(f"claims a string of {length} bytes")
    return file.read(length).decode("utf-8", "replace")


def _skip_array(file: BinaryIO) -> None:
    kind, count = struct.unpack("<IQ", file.read(12))
    if count > _MAX_ARRAY_ITEMS:
        raise HeaderError(f"claims an array of {count} items")
    if kind in _SCALARS:
        file.seek(count * struct.calcsize(f"<{_SCALARS[kind]}"), 1)
        return
    for _ in range(count):
        _read_value(file, kind)


def _number(values: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = values.get(key, default)
    if not isinstance(value, int):
        raise KeyError(key)
    return value
