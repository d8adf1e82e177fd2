"""The promotion ledger: JSON lines that are only ever appended, each chained to the one before.

The ledger is the registry's one source of truth: a version exists once its `register` line is
there, an alias points where the last line about it says. A line counts once it is whole, with its
newline, and synced; a torn last line is what a crash left, and the next append removes it. A file
beside it remembers the last line, so that cutting lines off the end shows too.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from experiments.registry.canonical import canonical_json, canonical_sha256
from experiments.registry.errors import BrokenLedger, brief
from experiments.registry.lock import HeldLock
from experiments.registry.records import LedgerEntry
from experiments.whole_file import prepared, sync, sync_directory

GENESIS = "0" * 64
"""`prev_hash` of the first line."""


class Ledger:
    """The file `ledger.jsonl` of a registry.

    Args:
        root: The registry's directory.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / "ledger.jsonl"
        self._head_path = root / "ledger.head.json"

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return all entries, their chain checked.

        Raises:
            BrokenLedger: If a line was altered, removed or moved; the message names the first.
        """
        head = self._head()  # first: a line may be appended while the others are read
        entries = self._chained()
        if head is None and len(entries) > 1:  # the first lines of all came meanwhile
            head, entries = self._head(), self._chained()
        self._check_head(head or (0, GENESIS), entries)
        return entries

    def append(
        self, entry_fields: dict[str, object], entries: Sequence[LedgerEntry], lock: HeldLock
    ) -> LedgerEntry:
        """Append one entry durably.

        Args:
            entry_fields: Fields of the entry without `seq`, `token`, `prev_hash` and `hash`.
            entries: The ledger as it was read under the same lock.
            lock: The lock, held.

        Raises:
            RegistryBusy: If the lock was taken over.
            BrokenLedger: If the file does not end where `entries` end.
            OSError: If the disk is full or gone; the ledger is as it was before.
        """
        document = {
            "schema_version": 1,
            **entry_fields,
            "seq": len(entries) + 1,
            "token": lock.token,
            "prev_hash": entries[-1].hash if entries else GENESIS,
        }
        entry = _sealed(document)
        line = canonical_json(entry.model_dump(mode="json")).encode() + b"\n"
        lock.check()
        if self.entries() != tuple(entries):
            raise BrokenLedger(f"{self.path} was written to while its lock was held")
        # The head's new content is on the disk before the line is, so that a disk that fills up
        # between the two cannot leave a line that counts although its writer was told it failed.
        with prepared(self._head_path) as (head, file):
            file.write(_head_of(entry))
            sync(file)
            self._write(line)
            head.replace(self._head_path)
        sync_directory(self.path.parent)
        return entry

    def torn_bytes(self) -> int:
        """Return how many bytes of an unfinished line follow the last whole one."""
        raw = self._raw()
        return len(raw) - (raw.rfind(b"\n") + 1)

    def _chained(self) -> tuple[LedgerEntry, ...]:
        raw = self._raw()
        lines = raw[: raw.rfind(b"\n") + 1].splitlines()
        entries: list[LedgerEntry] = []
        for number, line in enumerate(lines, 1):
            entries.append(self._checked(number, line, entries))
        return tuple(entries)

    def _checked(self, number: int, line: bytes, before: Sequence[LedgerEntry]) -> LedgerEntry:
        where = f"{self.path}, line {number}"
        try:
            document = json.loads(line)
            entry = LedgerEntry.model_validate(document)
        except (ValueError, ValidationError) as error:
            raise BrokenLedger(f"{where} is no ledger entry: {brief(error)}") from error
        document.pop("hash")
        if canonical_sha256(document) != entry.hash:
            raise BrokenLedger(f"{where} was altered: its hash does not fit its content")
        expected = before[-1].hash if before else GENESIS
        if entry.prev_hash != expected or entry.seq != number:
            raise BrokenLedger(
                f"{where} does not follow the line before it: a line was removed, added or moved"
            )
        if before and entry.token <= before[-1].token:
            raise BrokenLedger(f"{where} has the token {entry.token} of an earlier lock holder")
        return entry

    def _head(self) -> tuple[int, str] | None:
        """Return number and hash of the last line that is known; None if nothing is."""
        try:
            head = json.loads(self._head_path.read_bytes())
            return int(head["seq"]), str(head["hash"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokenLedger(f"{self._head_path} cannot be read: {error}") from error

    def _check_head(self, head: tuple[int, str], entries: Sequence[LedgerEntry]) -> None:
        seq, digest = head
        # It lags behind by one line after a crash, and while somebody appends.
        if not seq and len(entries) > 1:
            raise BrokenLedger(
                f"{self._head_path} is missing, so nobody can tell whether the ledger is complete",
                "restore both files from a backup",
            )
        if seq > len(entries) or (seq and entries[seq - 1].hash != digest):
            raise BrokenLedger(
                f"{self.path} has {len(entries)} lines; line {seq} with hash {digest[:12]} is "
                "missing: lines were cut off or the history was rewritten",
                "restore the ledger from a backup",
            )

    def _raw(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            end = size - self.torn_bytes()
            try:
                written = os.pwrite(descriptor, line, end)
                if written != len(line):
                    raise OSError(28, "no space left for a ledger line", str(self.path))
                os.ftruncate(descriptor, end + len(line))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        sync_directory(self.path.parent)


def _head_of(entry: LedgerEntry) -> bytes:
    return canonical_json({"seq": entry.seq, "hash": entry.hash}).encode()


def _sealed(document: dict[str, object]) -> LedgerEntry:
    # Twice: the hash is over the JSON that validation gives, with defaults and normal forms.
    draft = LedgerEntry.model_validate({**document, "hash": GENESIS})
    plain = draft.model_dump(mode="json")
    plain.pop("hash")
    return LedgerEntry.model_validate({**plain, "hash": canonical_sha256(plain)})
