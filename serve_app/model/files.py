"""Model files are opened only after their content matches the configured SHA-256."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from serve_app.config import ModelFileConfig
from serve_app.errors import ModelFileError

_GGUF_MAGIC = b"GGUF"
_CHUNK_BYTES = 1 << 22


class VerifiedFile(NamedTuple):
    """A file whose content had the expected hash at the time of `identity`."""

    path: Path
    sha256: str
    size_bytes: int
    identity: tuple[int, int, int, int]
    """Device, inode, size and modification time: a later change shows here."""


def verify_model_file(config: ModelFileConfig) -> VerifiedFile:
    """Hash a model file and compare. Blocking; about 1 s per GB.

    Raises:
        ModelFileError: If the file is missing, unreadable, no GGUF, or has another hash.
    """
    path = Path(config.path)
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise ModelFileError(f"model file {config.path!r} is no regular file")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            if before.st_size == 0:
                raise ModelFileError(f"model file {config.path!r} is empty")
            magic = file.read(4)
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError as error:
        raise ModelFileError(
            f"model file {config.path!r} does not exist (looked in {Path.cwd()})"
        ) from error
    except OSError as error:
        raise ModelFileError(
            f"model file {config.path!r} cannot be read: {error.strerror}"
        ) from error
    actual = digest.hexdigest()
    if actual != config.sha256:
        raise ModelFileError(
            f"model file {config.path!r} has sha256 {actual}, the configuration says "
            f"{config.sha256}: the file was altered or is another one; it was not opened"
        )
    if magic != _GGUF_MAGIC:
        raise ModelFileError(f"model file {config.path!r} is no GGUF file (magic {magic!r})")
    return VerifiedFile(path, actual, before.st_size, _identity(before))


def check_unchanged(file: VerifiedFile) -> None:
    """Make sure that what was loaded is what was hashed.

    Raises:
        ModelFileError: If the file was replaced or written to since.
    """
    try:
        unchanged = _identity(file.path.stat()) == file.identity
    except OSError:
        unchanged = False
    if not unchanged:
        raise ModelFileError(f"model file {str(file.path)!r} changed while it was being loaded")


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
