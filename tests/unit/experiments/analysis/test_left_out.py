"""What is in no comparison: overridden and held-out traffic, and units of another hash."""

from pathlib import Path
from typing import Any

from experiments.analysis.result import Analysis
from experiments.analysis.run import Options, analyse
from experiments.assignment import Allocation, Hash, Layout, assign
from experiments.events.records import Event, Exposure
from tests.unit.experiments.analysis.sessions import (
    CONTROL,
    DAY,
    START,
    TREATMENT,
    declaration,
    exposed,
    traffic,
    write,
)
from tests.unit.experiments.events.builders import feedback, outcome

NOW = START + 11 * DAY


def analysed(path: Path, events: list[Event], **changes: Any) -> Analysis:
    return analyse(write(path, events), "exp", declaration(**changes), Options(now=NOW))


def test_overridden_and_held_out_answers_change_no_number(tmp_path: Path) -> None:
    """Slow, failing and disliked, of sessions in the experiment and of others."""
    events = traffic(400)
    enrolled = sorted({event.unit for event in events if isinstance(event, Exposure)})
    plain = analysed(tmp_path / "plain.db", events)
    extra: list[Event] = []
    for number, unit in enumerate([*enrolled[:100], *(f"qa-{n}" for n in range(100))]):
        target = f"left-out-{number}"
        extra.append(
            outcome(
                target,
                unit=unit,
                variant=TREATMENT,
                exposure="holdout" if number % 2 else "override",
                status="error" if number % 3 else "ok",
                duration_s=60.0,
                finished_at=START + 5 * DAY,
            )
        )
        extra.append(feedback(f"f-{target}", target=target, value=0.0, received_at=START + DAY))
    found = analysed(tmp_path / "both.db", [*events, *extra])
    assert found.evidence.metrics == plain.evidence.metrics
    assert found.counts == plain.counts
    assert not found.evidence.health.conflicts


def growthbook(n_units: int, salt: str = "salt-1") -> list[Event]:
    """Return sessions that were split as GrowthBook splits them."""
    split = Allocation.from_percent(
        {CONTROL: 50, TREATMENT: 50}, control=CONTROL, layout=Layout.CUMULATIVE
    )
    events: list[Event] = []
    for number in range(n_units):
        unit = f"u{number}"
        made = assign(unit, split, salt=salt, hash=Hash.GROWTHBOOK_V2)
        at = START + number
        events += [
            exposed(
                unit,
                variant=made.variant,
                bucket=made.bucket,
                exposed_at=at,
                model_sha256="a" * 64,
            ),
            outcome(f"{unit}-0", unit=unit, variant=made.variant, finished_at=at + 1),
        ]
    return events


def test_units_of_growthbook_are_recognised_by_their_hash_and_salt(tmp_path: Path) -> None:
    events = growthbook(300)
    sound = analysed(tmp_path / "a.db", events, hash="growthbook_v2")
    assert not sound.evidence.health.conflicts
    (conflict,) = analysed(tmp_path / "b.db", events).evidence.health.conflicts
    assert "'salt-1' and hash 'sha256'" in conflict
    other = analysed(tmp_path / "c.db", growthbook(300, salt="other"), hash="growthbook_v2")
    assert "re-salted" in other.evidence.health.conflicts[0]
