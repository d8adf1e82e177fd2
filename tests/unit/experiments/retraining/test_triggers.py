"""Each rule at its limit, what is not known, and the cool-down."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from experiments.retraining.triggers import (
    LoopState,
    RetrainCheck,
    TriggerKind,
    TriggerPolicy,
    check,
)

_NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
_QUIET = LoopState(
    model="okla",
    version="1.0.0",
    n_new_feedback=49,
    trained_at=_NOW - timedelta(days=29.9),
    accuracy=0.70,
    first_accuracy=0.74,
    new_dataset=None,
    drift="warning",
    last_submitted_at=None,
)


def _check(**changes: object) -> RetrainCheck:
    return check(replace(_QUIET, **changes), TriggerPolicy(), now=_NOW)  # type: ignore[arg-type]


def test_just_inside_every_limit_nothing_fires() -> None:
    found = _check()
    assert not found.due
    assert found.reasons == ()
    assert {trigger.fired for trigger in found.triggers} == {False}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"n_new_feedback": 50}, TriggerKind.NEW_FEEDBACK),
        ({"trained_at": _NOW - timedelta(days=30)}, TriggerKind.MODEL_AGE),
        ({"accuracy": 0.699, "first_accuracy": 0.70}, TriggerKind.LOW_ACCURACY),
        ({"accuracy": 0.90, "first_accuracy": 0.96}, TriggerKind.DEGRADATION),
        ({"new_dataset": "20260430T080000Z"}, TriggerKind.NEW_DATA),
        ({"drift": "critical"}, TriggerKind.DRIFT),
    ],
    ids=lambda value: value.value if isinstance(value, TriggerKind) else "",
)
def test_each_rule_fires_alone(changes: dict[str, object], kind: TriggerKind) -> None:
    found = _check(**changes)
    assert found.due
    assert [trigger.kind for trigger in found.triggers if trigger.fired] == [kind]
    assert len(found.reasons) == 1


def test_what_is_not_known_never_fires_and_is_told() -> None:
    found = _check(
        n_new_feedback=None, trained_at=None, accuracy=None, first_accuracy=None, drift=None
    )
    assert not found.due
    unknown = {trigger.kind for trigger in found.triggers if trigger.fired is None}
    assert unknown == set(TriggerKind) - {TriggerKind.NEW_DATA}


def test_a_cool_down_holds_back_what_fires() -> None:
    submitted = _NOW - timedelta(days=6)
    found = _check(n_new_feedback=500, last_submitted_at=submitted)
    assert not found.due
    assert found.cooldown_until == submitted + timedelta(days=7)
    assert found.reasons


def test_after_the_cool_down_it_is_due() -> None:
    found = _check(n_new_feedback=500, last_submitted_at=_NOW - timedelta(days=7))
    assert found.due
    assert found.cooldown_until is None
