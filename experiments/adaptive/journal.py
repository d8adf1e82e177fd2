"""An adaptive experiment's folder under CARRIL_HOME: adaptive/NAME."""

from collections.abc import Sequence

from experiments.adaptive.policy import decide
from experiments.adaptive.records import Decision, Observation, Record, State
from experiments.steering.journal import DecisionJournal, faults_of
from experiments.steering.journal import Kept as KeptRecord

Kept = KeptRecord[Record]
"""A record in its file."""


class Journal(DecisionJournal[State, Observation, Decision]):
    """The folder of one adaptive experiment."""

    kind = "adaptive"
    command = "exp adapt"
    does = "moves the split of"
    nothing = "nothing has moved the split of {} yet"
    state_type = State
    record_type = Record


def faults(kept: Sequence[Kept]) -> list[str]:
    """Decide every record again, and follow their chain; return what does not hold."""
    return faults_of(kept, lambda record: decide(record.state, record.observation))
