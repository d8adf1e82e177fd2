"""KV memory on disk, so that a model that is loaded again need not compute its system prompt again.

One file per model, options and tokens. A file is written whole or not at all, read only if it is
exactly what was written, and deleted otherwise: llama.cpp trusts the bytes it is given. A disk that
is full or read-only costs a warning and nothing else.
"""

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson

from serve_app.engines.llama_cpp.radix import Tokens

logger = logging.getLogger(__name__)

Buffer = bytes | memoryview

_MAGIC: Final = b"carril-kv-1\n"
_MAX_HEADER_BYTES: Final = 1 << 16
_SUFFIX: Final = ".kv"
_STALE_S: Final = 3600.0
"""Age at which a temporary file belongs to a process that is gone."""


class PrefixStore:
    """Files of one directory, within a size; what was not used for longest goes first.

    Several processes may share the directory.

    Args:
        directory: Made when first needed, for this user only: prompts can be told from KV memory.
        max_bytes: Bound on all files together.
        identity: What the KV memory depends on besides the tokens: weights, release, options.
    """

    def __init__(self, directory: Path, *, max_bytes: int, identity: Iterable[str]) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._identity = list(identity)

    def path(self, tokens: Tokens) -> Path:
        """Return where the KV memory of these tokens is kept."""
        key = orjson.dumps([self._identity, hashlib.sha256(_raw(tokens)).hexdigest()])
        return self._directory / f"{hashlib.sha256(key).hexdigest()[:40]}{_SUFFIX}"

    def load(self, tokens: Tokens) -> bytes | None:
        """Return what was saved for these tokens; a file that is anything else is deleted."""
        path = self.path(tokens)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("prefix cache: %s cannot be read: %s", path, error)
            return None
        try:
            data = self._unpack(content, tokens)
        except ValueError as error:
            self.discard(tokens, str(error))
            return None
        _mark_used(path)
        return data

    def save(self, tokens: Tokens, data: Buffer) -> bool:
        """Write a file, and delete old ones beyond the bound; False if that could not be done."""
        header = orjson.dumps(self._header(tokens, data))
        size = len(_MAGIC) + 4 + len(header) + len(data)
        if size > self._max_bytes:
            logger.warning(
                "prefix cache: a file of %s bytes exceeds disk_prefix_cache_bytes: %s",
                size,
                self._max_bytes,
            )
            return False
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(size)
            _write_whole(
                self.path(tokens), [_MAGIC, len(header).to_bytes(4, "little"), header, data]
            )
        except OSError as error:
            logger.warning("prefix cache: nothing written to %s: %s", self._directory, error)
            return False
        return True

    def discard(self, tokens: Tokens, reason: str) -> None:
        """Delete a file that proved to be of no use."""
        path = self.path(tokens)
        logger.warning("prefix cache: %s is ignored and deleted: %s", path, reason)
        _delete(path)

    def _header(self, tokens: Tokens, data: Buffer) -> dict[str, object]:
        return {
            "identity": self._identity,
            "tokens_sha256": hashlib.sha256(_raw(tokens)).hexdigest(),
            "n_tokens": len(tokens),
            "n_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def _unpack(self, content: bytes, tokens: Tokens) -> bytes:
        # Raises ValueError, whose message says what is wrong.
        start = len(_MAGIC) + 4
        if len(content) < start or content[: len(_MAGIC)] != _MAGIC:
            raise ValueError("it is no prefix file of this version")
        n_header = int.from_bytes(content[len(_MAGIC) : start], "little")
        if n_header > _MAX_HEADER_BYTES:
            raise ValueError("its header is damaged")
        try:
            header = orjson.loads(content[start : start + n_header])
        except orjson.JSONDecodeError as error:
            raise ValueError("its header is damaged") from error
        data = content[start + n_header :]
        if header != self._header(tokens, data):
            raise ValueError("it is damaged, or of another model")
        return data

    def _make_room(self, n_bytes: int) -> None:
        found = []
        for path in self._directory.iterdir():
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            if path.suffix == _SUFFIX:
                found.append((status.st_mtime, status.st_size, path))
            elif path.suffix == ".tmp" and status.st_mtime < time.time() - _STALE_S:
                _delete(path)
        total = sum(size for _, size, _ in found) + n_bytes
        for _, size, path in sorted(found):
            if total <= self._max_bytes:
                return
            _delete(path)
            total -= size


def _raw(tokens: Tokens) -> bytes:
    return tokens.astype("<i4").tobytes()


def _write_whole(path: Path, parts: Iterable[Buffer]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        Path(name).replace(path)
    except BaseException:
        _delete(Path(name))
        raise


def _mark_used(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:  # a read-only folder: then nothing is deleted there either
        logger.debug("prefix cache: %s", error)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("prefix cache: %s cannot be deleted: %s", path, error)
