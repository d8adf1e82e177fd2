"""A disk without room, and what is left on it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOM = 20
"""Bytes that a file may have while the disk is full; below what any of our writers writes."""


@contextmanager
def full_disk() -> Iterator[None]:
    """Have no file grow beyond some bytes; Python ignores SIGXFSZ, so that writes fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, those of databases left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".db", ".db-wal", ".db-shm"}
    }
