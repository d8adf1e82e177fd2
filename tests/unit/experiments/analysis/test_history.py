"""What voids an experiment is found in the log itself."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.errors import NothingToCompare, UnknownExperiment, UnreadableLog
from experiments.analysis.result import Analysis
from experiments.analysis.run import Options, analyse
from experiments.decision.verdict import ReasonCode, Verdict
from experiments.events.records import Event, Exposure, Outcome
from tests.unit.experiments.analysis.sessions import (
    CONTROL,
    DAY,
    START,
    TREATMENT,
    declaration,
    exposed,
    traffic,
    unit_of,
    write,
)
from tests.unit.experiments.events.builders import exposure, outcome

NOW = START + 30 * DAY


def analysed(path: Path, events: Iterable[Event], **changes: Any) -> Analysis:
    return analyse(write(path / "e.db", events), "exp", declaration(**changes), Options(now=NOW))


def conflicts(found: Analysis) -> str:
    return "; ".join(found.evidence.health.conflicts)


def test_a_sound_experiment_has_no_conflicts(tmp_path: Path) -> None:
    found = analysed(tmp_path, traffic(400))
    assert not found.evidence.health.conflicts
    assert not found.notes
    assert found.counts["control"].units + found.counts["treatment"].units == 400


def test_another_salt_mid_run_is_invalid(tmp_path: Path) -> None:
    events = [*traffic(300), *traffic(300, seed=2, salt="other", config_hash="bbbbbbbbbbbb")]
    found = analysed(tmp_path, events)
    assert "re-salted" in conflicts(found)
    assert "bbbbbbbbbbbb" in conflicts(found)
    assert ReasonCode.INVALID in found.decision.codes


def test_a_unit_with_two_buckets_is_a_new_salt_whatever_is_declared(tmp_path: Path) -> None:
    unit = unit_of(CONTROL, 0)
    second = exposure(unit, variant=TREATMENT, bucket=1, exposed_at=START + 5)
    found = analysed(tmp_path, [*traffic(300), exposed(unit), second])
    assert "two buckets" in conflicts(found)


def test_a_renamed_experiment_is_invalid(tmp_path: Path) -> None:
    events = [*traffic(300), *traffic(300, seed=2, experiment="old-name")]
    found = analysed(tmp_path, events)
    assert "renamed mid-run: experiment 'old-name'" in conflicts(found)
    assert found.decision.verdict is Verdict.NO_CLEAR_WINNER


def test_another_experiment_with_its_own_salt_is_none_of_our_business(tmp_path: Path) -> None:
    events = [*traffic(300), *traffic(300, seed=2, experiment="other", salt="its own")]
    assert not analysed(tmp_path, events).evidence.health.conflicts


def test_another_model_in_an_arm_is_invalid_but_a_blemish_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    swapped = traffic(300) + traffic(100, seed=2, model_sha256="c" * 64)
    assert "arm redefined mid-run" in conflicts(analysed(tmp_path / "a", swapped))
    (tmp_path / "b").mkdir()
    late = [*traffic(600), exposed(unit_of(CONTROL, 3), model_sha256="c" * 64)]
    found = analysed(tmp_path / "b", late)
    assert not found.evidence.health.conflicts
    assert "another model by 1 of" in found.notes[0]


def test_a_ramp_begins_a_phase_and_its_own_units_are_analysed(tmp_path: Path) -> None:
    first = traffic(400, share=10, days=2)
    moved = [exposed(unit_of(CONTROL, n, share=10), share=10, exposed_at=START) for n in range(200)]
    again = [exposed(e.unit, exposed_at=START + 3 * DAY, config_hash="bbbbbbbbbbbb") for e in moved]
    second = traffic(500, seed=3, config_hash="bbbbbbbbbbbb", days=4)
    found = analysed(tmp_path, [*first, *moved, *again, *second])
    assert len(found.phases) == 2
    assert found.counts["control"].units + found.counts["treatment"].units == 500
    assert found.multi_exposed == 0
    assert any("phase 2 of 2; 600 units" in note for note in found.notes)
    earlier = analyse(tmp_path / "e.db", "exp", declaration(), Options(now=NOW, phase=1))
    assert earlier.current.shares == {CONTROL: 0.9, TREATMENT: 0.1}
    assert earlier.multi_exposed > 50


def test_units_in_two_arms_void_the_experiment(tmp_path: Path) -> None:
    events = traffic(300)
    units = [e for e in events if isinstance(e, Exposure)][:30]
    both = [
        exposure(
            u.unit,
            variant=CONTROL if u.variant == TREATMENT else TREATMENT,
            bucket=u.bucket,
            exposed_at=START + DAY,
        )
        for u in units
    ]
    found = analysed(tmp_path, [*events, *both])
    assert found.multi_exposed == 30
    assert ReasonCode.MULTIPLE_EXPOSURE in found.decision.codes


def test_lost_outcomes_in_one_arm_void_the_experiment(tmp_path: Path) -> None:
    events = [
        event
        for event in traffic(800)
        if not (isinstance(event, Outcome) and event.variant == TREATMENT and str(event.unit) < "4")
    ]
    found = analysed(tmp_path, events)
    assert found.counts["control"].missing == 0
    assert found.counts["treatment"].missing > 50
    assert ReasonCode.OUTCOME_LOSS_DIFFERS in found.decision.codes


def test_a_clock_ahead_and_impossible_durations_void_the_experiment(tmp_path: Path) -> None:
    future = [
        exposed(unit_of(CONTROL, n), exposed_at=NOW + DAY, inference_id=f"f{n}") for n in range(20)
    ]
    odd = [
        outcome(f"x{n}", unit=unit_of(CONTROL, n), duration_s=float("inf"), finished_at=NOW + DAY)
        for n in range(20)
    ]
    found = analysed(tmp_path, [*traffic(200), *future, *odd])
    assert "20 of 220 exposures lie in the future" in conflicts(found)
    assert "20 of" in conflicts(found)
    assert "impossible duration" in conflicts(found)
    assert found.decision.codes[0] is ReasonCode.INVALID


def test_a_skewed_split_voids_the_experiment(tmp_path: Path) -> None:
    events = traffic(6000)
    lost = {e.unit for e in events if isinstance(e, Exposure) and e.variant == TREATMENT}
    lost = {unit for unit in lost if unit < "4"}
    kept = [e for e in events if getattr(e, "unit", None) not in lost]
    found = analysed(tmp_path, kept)
    assert ReasonCode.SAMPLE_RATIO_MISMATCH in found.decision.codes


def test_an_empty_arm_is_too_few_units_and_an_arm_without_share_is_refused(tmp_path: Path) -> None:
    only = [e for e in traffic(30) if getattr(e, "variant", CONTROL) == CONTROL]
    found = analysed(tmp_path, only)
    assert found.counts["treatment"].units == 0
    assert found.decision.verdict is Verdict.NO_CLEAR_WINNER
    assert all(metric.effect is None for metric in found.evidence.metrics)
    (tmp_path / "b").mkdir()
    with pytest.raises(NothingToCompare, match="'candidate' has no share"):
        analysed(
            tmp_path / "b",
            [exposure("u1", probability=1.0)],
            allocation={CONTROL: 100, TREATMENT: 0},
        )


def test_a_metric_without_variance_is_invalid_not_a_number(tmp_path: Path) -> None:
    found = analysed(tmp_path, traffic(600, thumbs=(1.0, 1.0)))
    (thumbs,) = [
        m
        for m in found.evidence.metrics
        if m.name == "thumbs" and m.population.value == "intention_to_treat"
    ]
    assert thumbs.problem == "ZERO_VARIANCE"
    assert ReasonCode.METRIC_UNDEFINED in found.decision.codes


def test_several_treatments_need_a_name(tmp_path: Path) -> None:
    split = {CONTROL: 50, TREATMENT: 25, "third": 25}
    with pytest.raises(UnknownExperiment, match="--treatment; there are: candidate, third"):
        analysed(tmp_path, traffic(30), allocation=split)


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_bytes(b"this is no database, not even a small one")
    for name in ("no.db", "absent.db"):
        with pytest.raises(UnreadableLog):
            analyse(tmp_path / name, "exp", declaration())
