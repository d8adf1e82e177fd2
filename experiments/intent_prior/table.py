"""The file of a prior: which n-grams it knows, and what each says for and against every intent.

An `.npz` without pickles. Weights are whole numbers of one byte with a scale for each intent: a
fraction of the size of single precision, and 99.6 % of messages or more keep their intent. The same
content is the same bytes.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.intent_prior.errors import PriorError

FORMAT = 2
"""Of the files that are written."""
KINDS = {1: 2, 2: 5}
"""Format -> how many kinds of n-grams, in the order of `Features`, its files know. Files of the
first, from before sounds counted, are read too and score as they did."""
MAX_FILE_BYTES = 64 << 20
"""Larger files are not read; one of 150,000 messages has 8 MB."""
_MAX_UNPACKED_BYTES = 4 * MAX_FILE_BYTES
_SHA256_CHARS = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MEMBERS = {
    "format": ("u4", 0),
    "labels": ("U", 1),
    "hashes": ("u4", 1),
    "messages_with": ("u4", 1),
    "weights": ("i1", 2),
    "scales": ("f4", 1),
    "intercepts": ("f4", 1),
    "temperature": ("f8", 0),
    "n_messages": ("u8", 0),
    "training_sha256": ("U", 0),
}
"""Name of an array -> its kind of numbers and its dimensions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriorTable:
    """A linear classifier over hashed n-grams."""

    labels: tuple[str, ...]
    hashes: NDArray[np.uint32]
    """(n_features,), ascending."""
    messages_with: NDArray[np.uint32]
    """(n_features,): in how many messages of the training file each occurs."""
    weights: NDArray[np.int8]
    """(n_features, n_labels), in units of `scales`."""
    scales: NDArray[np.float32]
    """(n_labels,)"""
    intercepts: NDArray[np.float32]
    """(n_labels,)"""
    temperature: float
    """Scores are divided by it before they are probabilities."""
    n_messages: int
    """Of the training file."""
    training_sha256: str
    """Of that file."""
    format: int = FORMAT
    """A key of `KINDS`."""


def pack(table: PriorTable) -> bytes:
    """Return a table as the bytes of its file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, (kind, _) in _MEMBERS.items():
            array = np.asarray(getattr(table, name), dtype=kind)
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            # np.savez would write the time of day.
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return packed.getvalue()


def read_bytes(path: Path) -> bytes:
    """Return the content of a prior's file, which need not be one yet.

    Raises:
        PriorError: If it cannot be read, or is too large to be one.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PriorError(
                f"the intent prior {str(path)!r} has {size} bytes; {MAX_FILE_BYTES} are the most"
            )
        return path.read_bytes()
    except OSError as err:
        raise PriorError(
            f"the intent prior {str(path)!r} cannot be read: {err.strerror}",
            "carril eval prior makes one",
        ) from err


def unpack(data: bytes, *, where: str) -> PriorTable:
    """Read the bytes of a file.

    Args:
        data: The content.
        where: The file's name, for messages.

    Raises:
        PriorError: If it is no prior, a damaged one, or one of another format.
    """
    try:
        arrays = _arrays(data)
    except PriorError as err:
        raise PriorError(f"{where} is no intent prior: {err}", err.fix) from err
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as err:
        raise PriorError(
            f"{where} is no intent prior, or a damaged one: {err}", "carril eval prior makes one"
        ) from err
    table = PriorTable(
        labels=tuple(str(label) for label in arrays["labels"]),
        hashes=arrays["hashes"],
        messages_with=arrays["messages_with"],
        weights=np.ascontiguousarray(arrays["weights"]),
        scales=arrays["scales"],
        intercepts=arrays["intercepts"],
        temperature=float(arrays["temperature"]),
        n_messages=int(arrays["n_messages"]),
        training_sha256=str(arrays["training_sha256"]),
        format=int(arrays["format"]),
    )
    if fault := _fault(table):
        raise PriorError(f"{where} is damaged: {fault}", "carril eval prior makes it anew")
    return table


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {info.filename.removesuffix(".npy") for info in archive.infolist()}
        if missing := _MEMBERS.keys() - names:
            raise PriorError(f"it has no {', '.join(sorted(missing))}")
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > _MAX_UNPACKED_BYTES:
            raise PriorError(f"it unpacks to {unpacked} bytes")
        for name, (kind, n_dimensions) in _MEMBERS.items():
            with archive.open(f"{name}.npy") as member:
                array: NDArray[Any] = np.lib.format.read_array(
                    io.BytesIO(member.read()), allow_pickle=False
                )
            if name == "format" and array.ndim == 0 and int(array) not in KINDS:
                raise PriorError(
                    f"its format is {array}, this version reads {' and '.join(map(str, KINDS))}",
                    "fit it again with carril eval prior",
                )
            is_text = kind == "U" and array.dtype.kind == "U"
            if array.ndim != n_dimensions or not (is_text or array.dtype == np.dtype(kind)):
                raise PriorError(f"{name} is {array.dtype} of {array.ndim} dimensions")
            arrays[name] = array
    return arrays


def _fault(table: PriorTable) -> str | None:
    """Return what cannot be, None if everything fits together."""
    n_features, n_labels = len(table.hashes), len(table.labels)
    if n_labels < 2 or len(set(table.labels)) < n_labels:
        return f"its labels are {list(table.labels)}"
    if not n_features or table.weights.shape != (n_features, n_labels):
        return f"{table.weights.shape} weights for {n_features} features and {n_labels} labels"
    if table.messages_with.shape != (n_features,) or np.any(table.hashes[1:] <= table.hashes[:-1]):
        return "its features are not in order"
    for name in ("scales", "intercepts"):
        values = getattr(table, name)
        if values.shape != (n_labels,) or not np.isfinite(values).all():
            return f"its {name} are not {n_labels} numbers"
    if not 0 < table.temperature < np.inf:
        return f"its temperature is {table.temperature}"
    if len(table.training_sha256) != _SHA256_CHARS:
        return f"its training file's hash is {table.training_sha256!r}"
    return None
