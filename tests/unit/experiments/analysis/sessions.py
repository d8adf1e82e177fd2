"""Event files for tests of the analysis: real assignment, chosen outcomes."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.analysis.declaration import ExperimentDeclaration
from experiments.assignment import Allocation, assign
from experiments.events.records import Event, Exposure
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, feedback, outcome

START = 1_763_000_000.0
DAY = 86_400.0
CONTROL, TREATMENT = "stable", "candidate"


def declaration(**changes: Any) -> ExperimentDeclaration:
    fields = {
        "salt": "salt-1",
        "control": CONTROL,
        "allocation": {CONTROL: 50, TREATMENT: 50},
    }
    return ExperimentDeclaration.model_validate(fields | changes)


def write(path: Path, events: Iterable[Event]) -> Path:
    store = EventStore(path)
    store.append(events)
    store.close()
    return path


def unit_of(variant: str, number: int, *, salt: str = "salt-1", share: int = 50) -> str:
    """Return the number-th unit that this salt and split assign to a variant."""
    split = Allocation.from_percent({CONTROL: 100 - share, TREATMENT: share}, control=CONTROL)
    found = -1
    for candidate in range(1_000_000):
        unit = f"u{candidate:06d}"
        found += assign(unit, split, salt=salt).variant == variant
        if found == number:
            return unit
    raise AssertionError("not enough units")


def exposed(unit: str, *, salt: str = "salt-1", share: int = 50, **changes: Any) -> Exposure:
    """Return the exposure that a gateway would log for a unit."""
    split = Allocation.from_percent({CONTROL: 100 - share, TREATMENT: share}, control=CONTROL)
    made = assign(unit, split, salt=salt)
    fields: dict[str, Any] = {
        "variant": made.variant,
        "probability": made.probability,
        "bucket": made.bucket,
        "exposed_at": START,
        "inference_id": f"{unit}-0",
        "model_sha256": ("b" if made.variant == TREATMENT else "a") * 64,
    }
    return exposure(unit, **(fields | changes))


def traffic(
    n_units: int,
    *,
    seed: int = 1,
    thumbs: tuple[float, float] = (0.6, 0.6),
    errors: tuple[float, float] = (0.0, 0.0),
    latency_s: tuple[float, float] = (0.5, 0.5),
    days: float = 10.0,
    share: int = 50,
    salt: str = "salt-1",
    **changes: Any,
) -> list[Event]:
    """Return sessions of one to four answers; per arm (control, treatment) what they are like."""
    draw = random.Random(seed)
    split = Allocation.from_percent({CONTROL: 100 - share, TREATMENT: share}, control=CONTROL)
    events: list[Event] = []
    for _ in range(n_units):
        unit = f"{draw.getrandbits(64):016x}"
        made = assign(unit, split, salt=salt)
        arm = int(made.variant == TREATMENT)
        at = START + draw.random() * days * DAY
        events.append(exposed(unit, salt=salt, share=share, exposed_at=at, **changes))
        for number in range(draw.randint(1, 4)):
            target, failed = f"{unit}-{number}", draw.random() < errors[arm]
            took = latency_s[arm] * draw.lognormvariate(0.0, 0.4)
            done = at + 20.0 * number + took
            events.append(
                outcome(
                    target,
                    unit=unit,
                    variant=made.variant,
                    status="error" if failed else "ok",
                    duration_s=took,
                    finished_at=done,
                    confidence=0.5 + draw.random() / 2,
                    **{k: v for k, v in changes.items() if k in ("experiment", "version")},
                )
            )
            if not failed and draw.random() < 0.5:
                up = float(draw.random() < thumbs[arm])
                events.append(feedback(f"f-{target}", target=target, value=up, received_at=done))
    return events
