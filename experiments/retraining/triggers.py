"""The rules that say when to train again."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

DriftLevel = Literal["ok", "warning", "critical"]


class TriggerKind(StrEnum):
    """A reason to train again."""

    NEW_FEEDBACK = "new_feedback"
    MODEL_AGE = "model_age"
    LOW_ACCURACY = "low_accuracy"
    DEGRADATION = "degradation"
    NEW_DATA = "new_data"
    DRIFT = "drift"


class TriggerPolicy(BaseModel):
    """Thresholds of the rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_new_feedback: Annotated[int, Field(ge=1)] = 50
    """Rated answers since the last retraining; >= 50 is the rule of the OKLA assistant."""
    max_age_days: Annotated[float, Field(gt=0)] = 30.0
    """Age of the champion; >= 30 days, the rule of the OKLA assistant."""
    min_accuracy: Annotated[float, Field(gt=0, lt=1)] = 0.70
    """Intent accuracy of the champion's newest evaluation; below 70 % fires."""
    max_accuracy_drop: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Drop of the newest evaluation below the first one of the same file on the same suites. Ours:
    with 1,500 items five points are four standard errors."""
    drift_from: Literal["warning", "critical"] = "critical"
    """Least level of a drift finding that fires."""
    cooldown_days: Annotated[float, Field(ge=0)] = 7.0
    """Time after a submission in which nothing fires: feedback on the new model has to come in, and
    one cause must not train twice. A week has every weekday in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """What is known; None: not known, which never fires a rule and is told."""

    model: str | None
    version: str | None
    n_new_feedback: int | None
    """Answers rated since the last submission."""
    trained_at: datetime | None
    """When the champion was made."""
    accuracy: float | None
    """Intent accuracy in the champion's newest evaluation."""
    first_accuracy: float | None
    """In its first evaluation on the same suites."""
    new_dataset: str | None
    """Name of a dataset that is ready and was not trained on."""
    drift: DriftLevel | None
    last_submitted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One rule and what it found."""

    kind: TriggerKind
    fired: bool | None
    """None: not known."""
    detail: str
    value: float | str | None = None
    threshold: float | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainCheck:
    """Whether to train again, with reasons."""

    model: str | None
    version: str | None
    checked_at: datetime
    due: bool
    """A rule fired, and the cool-down is over."""
    triggers: tuple[Trigger, ...]
    cooldown_until: datetime | None
    """Set while a cool-down holds back what fired, or would."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """What fired."""
        return tuple(t.detail for t in self.triggers if t.fired)

    def to_document(self) -> dict[str, object]:
        """Return the check for JSON."""
        until = self.cooldown_until
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "version": self.version,
            "checked_at": self.checked_at.isoformat(),
            "due": self.due,
            "reasons": list(self.reasons),
            "cooldown_until": None if until is None else until.isoformat(),
            "triggers": [
                {
                    "kind": t.kind.value,
                    "fired": t.fired,
                    "detail": t.detail,
                    "value": t.value,
                    "threshold": t.threshold,
                }
                for t in self.triggers
            ],
        }


def check(state: LoopState, policy: TriggerPolicy, *, now: datetime) -> RetrainCheck:
    """Apply every rule.

    Args:
        state: What is known.
        policy: Thresholds.
        now: Time of the check, UTC.
    """
    triggers = (
        _feedback(state, policy),
        _age(state, policy, now),
        _accuracy(state, policy),
        _degradation(state, policy),
        _data(state),
        _drift(state, policy),
    )
    until = None
    if state.last_submitted_at is not None:
        end = state.last_submitted_at + timedelta(days=policy.cooldown_days)
        until = end if now < end else None
    return RetrainCheck(
        model=state.model,
        version=state.version,
        checked_at=now,
        due=until is None and any(trigger.fired for trigger in triggers),
        triggers=triggers,
        cooldown_until=until,
    )


def _feedback(state: LoopState, policy: TriggerPolicy) -> Trigger:
    n, least = state.n_new_feedback, policy.min_new_feedback
    return Trigger(
        kind=TriggerKind.NEW_FEEDBACK,
        fired=None if n is None else n >= least,
        detail="no event file" if n is None else f"{n} new feedback examples, from {least} on",
        value=n,
        threshold=least,
    )


def _age(state: LoopState, policy: TriggerPolicy, now: datetime) -> Trigger:
    limit = policy.max_age_days
    if state.trained_at is None:
        return Trigger(kind=TriggerKind.MODEL_AGE, fired=None, detail="no model in production")
    days = (now - state.trained_at) / timedelta(days=1)
    return Trigger(
        kind=TriggerKind.MODEL_AGE,
        fired=days >= limit,
        detail=f"the model is {days:.1f} days old, from {limit:g} on",
        value=round(days, 2),
        threshold=limit,
    )


def _accuracy(state: LoopState, policy: TriggerPolicy) -> Trigger:
    value, least = state.accuracy, policy.min_accuracy
    detail = "the model in production was never evaluated"
    if value is not None:
        detail = f"intent accuracy {value:.1%}, below {least:.0%}"
    return Trigger(
        kind=TriggerKind.LOW_ACCURACY,
        fired=None if value is None else value < least,
        detail=detail,
        value=value,
        threshold=least,
    )


def _degradation(state: LoopState, policy: TriggerPolicy) -> Trigger:
    limit = policy.max_accuracy_drop
    if state.accuracy is None or state.first_accuracy is None:
        return Trigger(
            kind=TriggerKind.DEGRADATION,
            fired=None,
            detail="no two evaluations of the model on the same suites",
            threshold=limit,
        )
    drop = state.first_accuracy - state.accuracy
    return Trigger(
        kind=TriggerKind.DEGRADATION,
        fired=drop >= limit,
        detail=f"intent accuracy fell by {drop * 100:.1f} points, from {limit * 100:g} on",
        value=round(drop, 4),
        threshold=limit,
    )


def _data(state: LoopState) -> Trigger:
    name = state.new_dataset
    return Trigger(
        kind=TriggerKind.NEW_DATA,
        fired=name is not None,
        detail="no new dataset" if name is None else f"dataset {name} was not trained on yet",
        value=name,
    )


def _drift(state: LoopState, policy: TriggerPolicy) -> Trigger:
    level = state.drift
    firing = ("warning", "critical") if policy.drift_from == "warning" else ("critical",)
    return Trigger(
        kind=TriggerKind.DRIFT,
        fired=None if level is None else level in firing,
        detail="no drift report"
        if level is None
        else f"drift {level}, from {policy.drift_from} on",
        value=level,
        threshold=policy.drift_from,
    )
