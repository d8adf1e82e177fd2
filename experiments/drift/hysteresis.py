"""The memory between checks: a finding opens once, may escalate, and ends only when it is over."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from experiments.drift.levels import Judgement, Level
from experiments.drift.policy import DriftPolicy


class Change(StrEnum):
    """What happened to a finding; what people are told of."""

    OPENED = "opened"
    ESCALATED = "escalated"
    DEESCALATED = "deescalated"
    RESOLVED = "resolved"


class Active(BaseModel):
    """A finding that has not ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Level
    since: float
    """First check that found it."""
    level_since: float
    """First check that found it at this level; the clock of the SLA."""
    quiet_checks: Annotated[int, Field(ge=0)] = 0
    counted_at: float
    """The last check that counted; one an instant later does not count again."""


class Step(BaseModel):
    """A finding after a check."""

    model_config = ConfigDict(frozen=True)

    active: Active | None
    change: Change | None


def advance(before: Active | None, found: Judgement, policy: DriftPolicy, *, now: float) -> Step:
    """Take a check into account.

    Not knowing neither opens nor ends a finding. One ends, or becomes less severe, when its effect
    was below `clear_below` of its threshold in `clear_checks` checks at least half a period apart.

    Args:
        before: The finding so far; None if there is none.
        found: What this check says.
        policy: Hysteresis and period.
        now: Time of the check, seconds since the epoch.
    """
    if before is None:
        if found.level in (Level.WARNING, Level.CRITICAL):
            return Step(active=_fresh(found.level, now, now), change=Change.OPENED)
        return Step(active=None, change=None)
    if found.level is Level.INSUFFICIENT_DATA:
        return Step(active=before, change=None)
    if found.level.rank > before.level.rank:
        return Step(active=_fresh(found.level, before.since, now), change=Change.ESCALATED)
    if not _is_quiet(before, found, policy):
        calm = before.model_copy(update={"quiet_checks": 0, "counted_at": now})
        return Step(active=calm, change=None)
    if before.quiet_checks and now - before.counted_at < policy.check_every_h * 1800.0:
        return Step(active=before, change=None)
    quiet = before.quiet_checks + 1
    if quiet < policy.hysteresis.clear_checks:
        waiting = before.model_copy(update={"quiet_checks": quiet, "counted_at": now})
        return Step(active=waiting, change=None)
    if found.level is Level.WARNING:
        lower = _fresh(Level.WARNING, before.since, now)
        return Step(active=lower, change=Change.DEESCALATED)
    return Step(active=None, change=Change.RESOLVED)


def _fresh(level: Level, since: float, now: float) -> Active:
    return Active(level=level, since=since, level_since=now, counted_at=now)


def _is_quiet(before: Active, found: Judgement, policy: DriftPolicy) -> bool:
    limits = found.thresholds
    threshold = limits.critical if before.level is Level.CRITICAL else limits.warning
    effect = found.slow.found.effect
    return (
        found.level.rank < before.level.rank
        and effect is not None
        and effect < policy.hysteresis.clear_below * threshold
    )
