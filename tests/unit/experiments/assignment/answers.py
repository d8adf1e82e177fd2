"""What 200 units get under every rule at once; printed by another process to be compared."""

import json
import sys

from experiments.assignment import Allocation
from experiments.assignment.rules import Holdout, Rules, Slots, place


def answers() -> list[list[str]]:
    """Return (reason, variant) of each unit."""
    made = Rules(
        experiment="exp",
        salt="exp",
        allocation=Allocation.from_percent({"control": 50, "treatment": 50}, control="control"),
        coverage=6000,
        slots=Slots(layer="layer", salt="layer", start=2000, end=9000),
        holdout=Holdout(salt="h", size=1000),
    )
    return [list(place(f"session-{number}", made)[:2]) for number in range(200)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answers()))
