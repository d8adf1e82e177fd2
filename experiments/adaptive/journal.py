"""An adaptive experiment's folder under CARRIL_HOME: adaptive/NAME."""

from collections.abc import Sequence
from pathlib import Path

from experiments.adaptive.policy import decide
from experiments.adaptive.records import Record, State
from experiments.decision.journal import DecisionJournal, faults_of
from experiments.decision.journal import Kept as KeptRecord
from experiments.errors import GuidedError

Kept = KeptRecord[Record]
"""A record in its file."""


class AdaptiveError(GuidedError):
    """The folder of an adaptive experiment cannot be used."""


class Journal(DecisionJournal[State, Record]):
    """The folder of one adaptive experiment.

    Args:
        home: CARRIL_HOME.
        experiment: Name of the experiment.
    """

    def __init__(self, home: Path, experiment: str) -> None:
        super().__init__(home / "adaptive" / experiment, experiment, State, Record)

    def busy(self, process: str) -> AdaptiveError:
        """Return the error of a controller that finds another one at work."""
        return AdaptiveError(
            f"a controller (process {process}) moves the split of {self.experiment!r}",
            "watch it with: carril exp adapt status",
        )

    def missing(self) -> AdaptiveError:
        """Return the error of who asks for a state before there is one."""
        return AdaptiveError(
            f"nothing has moved the split of {self.experiment!r} yet",
            f"start it with: carril exp adapt run {self.experiment}",
        )

    def damaged(self, message: str) -> AdaptiveError:
        """Return the error of a file that cannot be read."""
        return AdaptiveError(message)


def faults(kept: Sequence[Kept]) -> list[str]:
    """Decide every record again, and follow their chain; return what does not hold."""
    return faults_of(kept, lambda record: decide(record.state, record.observation))
