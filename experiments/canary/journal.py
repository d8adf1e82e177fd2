"""A canary's folder: its state, the text it deployed, and one evidence file per decision.

canary/NAME/state.json            where it stands; replaced whole
canary/NAME/config.yaml           the config as this canary deployed or found it last
canary/NAME/decisions/0003-advance.json    plan, state, observation, decision
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from experiments.canary.errors import CanaryBusy, CanaryError, NoCanary
from experiments.canary.machine import decide
from experiments.canary.records import Applied, Code, Record, State
from experiments.decision.codec import UnreadableRecord, from_json, to_json
from experiments.whole_file import write_whole


class Kept(NamedTuple):
    """A record in its file."""

    path: Path
    record: Record
    sha256: str


class Journal:
    """The folder of one experiment's canary.

    Args:
        home: CARRIL_HOME.
        experiment: Name of the experiment.
    """

    def __init__(self, home: Path, experiment: str) -> None:
        self.experiment = experiment
        self.folder = home / "canary" / experiment

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other controllers out; the kernel frees the lock of one that dies.

        Raises:
            CanaryBusy: If another one is at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise CanaryBusy(
                    f"a controller (process {file.read().strip() or 'unknown'}) drives the canary "
                    f"of {self.experiment!r}",
                    "watch it with: carril canary status",
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def load(self) -> State | None:
        """Return the state; None if there was no canary yet.

        Raises:
            CanaryError: If the file is damaged or newer.
        """
        path = self.folder / "state.json"
        try:
            return from_json(State, path.read_bytes())
        except FileNotFoundError:
            return None
        except UnreadableRecord as error:
            raise CanaryError(f"{path}: {error}") from error

    def require(self) -> State:
        """Return the state.

        Raises:
            NoCanary: If there was no canary yet.
        """
        state = self.load()
        if state is None:
            raise NoCanary(
                f"there is no canary of {self.experiment!r}",
                f"start one with: carril canary run {self.experiment}",
            )
        return state

    def save(self, state: State) -> None:
        """Write the state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "state.json", to_json(state, indent=2).encode())

    def snapshot(self) -> bytes:
        """Return the config as this canary deployed or found it last."""
        return (self.folder / "config.yaml").read_bytes()

    def keep_snapshot(self, text: bytes) -> None:
        """Keep the config that is served."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "config.yaml", text)

    def append(self, record: Record) -> Kept:
        """Write an evidence file."""
        folder = self.folder / "decisions"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{record.number:04d}-{record.decision.action.value}.json"
        content = to_json(record, indent=2).encode()
        write_whole(path, content)
        return Kept(path, record, hashlib.sha256(content).hexdigest())

    def seal(self, applied: Applied) -> None:
        """Write that a decision was carried out."""
        folder = self.folder / "applied"
        folder.mkdir(parents=True, exist_ok=True)
        content = to_json(applied, indent=2).encode()
        write_whole(folder / f"{applied.number:04d}.json", content)

    def applied(self, number: int) -> Applied | None:
        """Return when a decision was carried out; None if it was not, or had nothing to do."""
        path = self.folder / "applied" / f"{number:04d}.json"
        return from_json(Applied, path.read_bytes()) if path.is_file() else None

    def ask_to_roll_back(self) -> None:
        """Leave a request for the controller that drives this canary."""
        write_whole(self.folder / "rollback", b"")

    def take_request(self) -> bool:
        """Return whether somebody asked to roll back, and forget it."""
        try:
            (self.folder / "rollback").unlink()
        except FileNotFoundError:
            return False
        return True

    def records(self) -> list[Kept]:
        """Return all decisions, oldest first.

        Raises:
            CanaryError: If a file is damaged or newer.
        """
        found = []
        for path in sorted((self.folder / "decisions").glob("*.json")):
            content = path.read_bytes()
            try:
                record = from_json(Record, content)
            except UnreadableRecord as error:
                raise CanaryError(f"{path}: {error}") from error
            found.append(Kept(path, record, hashlib.sha256(content).hexdigest()))
        return found


def faults(kept: list[Kept]) -> list[str]:
    """Decide every record again, and follow their chain; return what does not hold."""
    found = []
    previous = ""
    for path, record, sha256 in kept:
        by_hand = any(reason.code is Code.BY_HAND for reason in record.decision.reasons)
        again = decide(record.state, record.observation)
        if not by_hand and to_json(again) != to_json(record.decision):
            found.append(
                f"{path.name}: the evidence gives {again.action.value}, the file says "
                f"{record.decision.action.value}"
            )
        if record.previous_sha256 != previous:
            found.append(f"{path.name}: does not follow the record before it")
        previous = sha256
    return found
