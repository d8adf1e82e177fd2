"""The spool: a synced file that takes events while the store cannot.

Each writer process appends to its own file. Whoever owns the store later claims the files, stores
their events (idempotent, so a crash in between repeats and changes nothing) and deletes them.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from experiments.events.records import Event, decode, encode

logger = logging.getLogger(__name__)


class Spool:
    """Append-only spool file of one process.

    Args:
        directory: Directory of the spool files; created on first use.
        name: Name of this process's file, unique among live processes.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._path = directory / f"{name}.jsonl"

    def append(self, events: Iterable[Event]) -> None:
        """Write events and sync them to disk.

        Raises:
            OSError: If they could not be written in full.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        data = "".join(encode(event) + "\n" for event in events).encode()
        descriptor = self._open_locked()
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(f"disk full: {self._path} took only a part of the events")
                os.fsync(descriptor)
                if size == 0:
                    _sync_directory(self._directory)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def _open_locked(self) -> int:
        """Open the file, and make sure that `drain` did not claim it in between."""
        while True:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                if self._path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            except FileNotFoundError:
                pass
            os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """Make a new file's name durable; its content alone would be lost with the name."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drain(directory: Path, store: Callable[[Sequence[Event]], None]) -> int:
    """Move every spooled event into the store.

    A file is renamed before it is read, so that a live writer starts a new one. A torn last line,
    as a power cut leaves it, was never acknowledged and is skipped. Whole lines that this build
    cannot read, of a newer version above all, are kept in a file `*.unread`.

    Args:
        directory: Directory of the spool files; may be absent.
        store: Called with the events of one file; must be durable when it returns.

    Returns:
        Number of events moved.
    """
    if not directory.is_dir():
        return 0
    moved = 0
    for path in sorted(directory.glob("*.jsonl")):
        with suppress(FileNotFoundError):  # another drain was faster, here and below
            path.replace(path.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}.claimed"))
    for path in sorted(directory.glob("*.claimed")):
        try:
            events, unread = _read(path)
        except FileNotFoundError:
            continue
        if events:
            store(events)
        if unread:
            path.with_suffix(".unread").write_text("\n".join(unread) + "\n", encoding="utf-8")
        path.unlink(missing_ok=True)
        moved += len(events)
    return moved


def _read(path: Path) -> tuple[list[Event], list[str]]:
    """Return the events of a file, and the whole lines that are none."""
    events: list[Event] = []
    unread: list[str] = []
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits for a writer that opened it before the rename
        *lines, torn = file.read().decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines):
        try:
            events.append(decode(line))
        except ValueError as error:
            unread.append(line)
            logger.warning(
                "spool line not read",
                extra={"file": path.name, "line": number + 1, "reason": str(error)},
            )
    if torn:
        logger.warning("torn spool line skipped", extra={"file": path.name})
    return events, unread
