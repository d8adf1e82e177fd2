"""Files that appear whole or not at all, survive a power cut, and leave nothing where they fail.

A full disk must not fill up further with what it could not take.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file.

    Args:
        path: Where; its folder must exist.
        content: All of it.
        mode: Permissions, of which the process's mask takes some.

    Raises:
        OSError: If it cannot be written; the file that was there stays, nothing is left beside it.
    """
    with opened_whole(path, mode=mode) as file:
        file.write(content)


@contextmanager
def opened_whole(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file that takes its place when the block ends well; see `write_whole`."""
    with prepared(path, mode=mode) as (scratch, file):
        yield file
        sync(file)
        scratch.replace(path)
    sync_directory(path.parent)


@contextmanager
def prepared(path: Path, *, mode: int = 0o644) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file beside `path`, to take its place; what does not is removed.

    Whoever moves it calls `sync` before and `sync_directory` after.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        with open(os.open(scratch, flags, mode), "wb") as file:  # noqa: PTH123 (a descriptor)
            yield scratch, file
    finally:
        scratch.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Have what was written on the disk when this returns."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Have the names in a folder on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
