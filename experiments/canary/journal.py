"""A canary's folder: what every controller keeps, when decisions were in force, and requests.

canary/NAME/applied/0003.json    that a decision was carried out, and when
canary/NAME/rollback             somebody asks the controller at work to roll back
"""

from collections.abc import Sequence

from experiments.canary.machine import decide
from experiments.canary.records import Applied, Code, Decision, Observation, Record, State
from experiments.decision.codec import from_json, to_json
from experiments.steering.journal import DecisionJournal, faults_of
from experiments.steering.journal import Kept as KeptRecord
from experiments.whole_file import write_whole

Kept = KeptRecord[Record]
"""A record in its file."""


class Journal(DecisionJournal[State, Observation, Decision]):
    """The folder of one experiment's canary."""

    kind = "canary"
    command = "canary"
    does = "drives the canary of"
    nothing = "there is no canary of {}"
    state_type = State
    record_type = Record

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


def faults(kept: Sequence[Kept]) -> list[str]:
    """Decide every record again, and follow their chain; return what does not hold."""
    return faults_of(kept, _again)


def _again(record: Record) -> Decision | None:
    if any(reason.code is Code.BY_HAND for reason in record.decision.reasons):
        return None
    return decide(record.state, record.observation)
