"""The folder of a controller that decides again and again: its state, and evidence per decision.

FOLDER/state.json            where it stands; replaced whole
FOLDER/config.yaml           the config as it was deployed or found last
FOLDER/decisions/0003-ACTION.json    state, observation, decision; each with the hash of the last
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from experiments.decision.codec import UnreadableRecord, from_json, to_json
from experiments.errors import GuidedError
from experiments.whole_file import write_whole


class _Action(Protocol):
    @property
    def value(self) -> str: ...


class _Decision(Protocol):
    @property
    def action(self) -> _Action: ...


class _Record(Protocol):
    @property
    def number(self) -> int: ...

    @property
    def decision(self) -> Any: ...  # a dataclass with an `action`, another one for each controller

    @property
    def previous_sha256(self) -> str: ...


S = TypeVar("S")
R = TypeVar("R", bound=_Record)


class Kept(NamedTuple, Generic[R]):
    """A record in its file."""

    path: Path
    record: R
    sha256: str


class DecisionJournal(Generic[S, R]):
    """The folder of one experiment's controller.

    Args:
        folder: Where everything is.
        experiment: Name of the experiment.
        state: Type of its state.
        record: Type of its records.
    """

    def __init__(self, folder: Path, experiment: str, state: type[S], record: type[R]) -> None:
        self.experiment = experiment
        self.folder = folder
        self._state = state
        self._record = record

    def busy(self, process: str) -> GuidedError:
        """Return the error of a controller that finds another one at work."""
        return GuidedError(
            f"another controller (process {process}) drives {self.experiment!r}", "stop it first"
        )

    def missing(self) -> GuidedError:
        """Return the error of who asks for a state before there is one."""
        return GuidedError(f"there is nothing of {self.experiment!r} yet", "start it first")

    def damaged(self, message: str) -> GuidedError:
        """Return the error of a file that cannot be read."""
        return GuidedError(message, "put the file back, or move the folder away")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other controllers out; the kernel frees the lock of one that dies.

        Raises:
            GuidedError: If another one is at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise self.busy(file.read().strip() or "unknown") from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def load(self) -> S | None:
        """Return the state; None if there is none yet.

        Raises:
            GuidedError: If the file is damaged or newer.
        """
        path = self.folder / "state.json"
        try:
            return from_json(self._state, path.read_bytes())
        except FileNotFoundError:
            return None
        except UnreadableRecord as error:
            raise self.damaged(f"{path}: {error}") from error

    def require(self) -> S:
        """Return the state.

        Raises:
            GuidedError: If there is none yet.
        """
        state = self.load()
        if state is None:
            raise self.missing()
        return state

    def save(self, state: S) -> None:
        """Write the state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "state.json", to_json(state, indent=2).encode())

    def snapshot(self) -> bytes:
        """Return the config as it was deployed or found last."""
        return (self.folder / "config.yaml").read_bytes()

    def keep_snapshot(self, text: bytes) -> None:
        """Keep the config that is served."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "config.yaml", text)

    def append(self, record: R) -> Kept[R]:
        """Write an evidence file."""
        folder = self.folder / "decisions"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{record.number:04d}-{record.decision.action.value}.json"
        content = to_json(record, indent=2).encode()
        write_whole(path, content)
        return Kept(path, record, hashlib.sha256(content).hexdigest())

    def records(self) -> list[Kept[R]]:
        """Return all decisions, oldest first.

        Raises:
            GuidedError: If a file is damaged or newer.
        """
        found = []
        for path in sorted((self.folder / "decisions").glob("*.json")):
            content = path.read_bytes()
            try:
                record = from_json(self._record, content)
            except UnreadableRecord as error:
                raise self.damaged(f"{path}: {error}") from error
            found.append(Kept(path, record, hashlib.sha256(content).hexdigest()))
        return found


def faults_of(kept: Sequence[Kept[R]], again: Callable[[R], _Decision | None]) -> list[str]:
    """Decide every record again, and follow their chain; return what does not hold.

    Args:
        kept: All records, oldest first.
        again: Decides from a record's evidence; None for what a person decided.
    """
    found = []
    previous = ""
    for path, record, sha256 in kept:
        decided = again(record)
        if decided is not None and to_json(decided) != to_json(record.decision):
            found.append(
                f"{path.name}: the evidence gives {decided.action.value}, the file says "
                f"{record.decision.action.value}"
            )
        if record.previous_sha256 != previous:
            found.append(f"{path.name}: does not follow the record before it")
        previous = sha256
    return found
