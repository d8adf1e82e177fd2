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
from typing import Any, Generic, NamedTuple, TypeVar

from experiments.decision.codec import UnreadableRecord, from_json, to_json
from experiments.steering.errors import ControllerBusy, NothingYet, SteeringError
from experiments.steering.records import D, Decided, DecisionRecord, O, S, Standing
from experiments.whole_file import write_whole

R = TypeVar("R", bound=DecisionRecord[Any, Any, Any])


class Kept(NamedTuple, Generic[R]):
    """A record in its file."""

    path: Path
    record: R
    sha256: str


class DecisionJournal(Generic[S, O, D]):
    """The folder of one experiment's controller, by what kind of controller it is.

    Args:
        home: CARRIL_HOME.
        experiment: Name of the experiment.
    """

    kind: str
    """Name of the folder under CARRIL_HOME."""
    command: str
    """The commands of this controller, for messages."""
    does: str
    """What it does, as in: a controller {does} 'NAME'."""
    nothing: str
    """What is told before it has begun, with {} for the name."""
    state_type: type[S]
    record_type: type[DecisionRecord[S, O, D]]

    def __init__(self, home: Path, experiment: str) -> None:
        self.experiment = experiment
        self.folder = home / self.kind / experiment

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other controllers out; the kernel frees the lock of one that dies.

        Raises:
            ControllerBusy: If another one is at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                process = file.read().strip() or "unknown"
                raise ControllerBusy(
                    f"a controller (process {process}) {self.does} {self.experiment!r}",
                    f"watch it with: carril {self.command} status",
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def load(self) -> S | None:
        """Return the state; None if there is none yet.

        Raises:
            SteeringError: If the file is damaged or newer.
        """
        path = self.folder / "state.json"
        try:
            return from_json(self.state_type, path.read_bytes())
        except FileNotFoundError:
            return None
        except UnreadableRecord as error:
            raise SteeringError(f"{path}: {error}") from error

    def require(self) -> S:
        """Return the state.

        Raises:
            NothingYet: If there is none yet.
        """
        state = self.load()
        if state is None:
            raise NothingYet(
                self.nothing.format(f"{self.experiment!r}"),
                f"start it with: carril {self.command} run {self.experiment}",
            )
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

    def append(self, record: DecisionRecord[S, O, D]) -> Kept[DecisionRecord[S, O, D]]:
        """Write an evidence file."""
        folder = self.folder / "decisions"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{record.number:04d}-{record.decision.action.value}.json"
        content = to_json(record, indent=2).encode()
        write_whole(path, content)
        return Kept(path, record, hashlib.sha256(content).hexdigest())

    def records(self) -> list[Kept[DecisionRecord[S, O, D]]]:
        """Return all decisions, oldest first.

        Raises:
            SteeringError: If a file is damaged or newer.
        """
        found = []
        for path in sorted((self.folder / "decisions").glob("*.json")):
            content = path.read_bytes()
            try:
                record = from_json(self.record_type, content)
            except UnreadableRecord as error:
                raise SteeringError(f"{path}: {error}") from error
            found.append(Kept(path, record, hashlib.sha256(content).hexdigest()))
        return found


def end_faults(state: Standing, kept: Sequence[Kept[R]]) -> list[str]:
    """Look for the record that the controller wrote last; return what does not hold.

    Args:
        state: Read before the records, so that there may be newer ones.
        kept: All records.
    """
    last = state.previous_sha256
    if not last or last in {one.sha256 for one in kept}:
        return []
    return ["the last record is not as the controller wrote it, or was taken away"]


def faults_of(kept: Sequence[Kept[R]], again: Callable[[R], Decided | None]) -> list[str]:
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
