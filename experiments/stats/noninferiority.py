"""Guardrails: not worse than a margin, which is not the same as "no significant harm"."""

from enum import StrEnum
from typing import NamedTuple

from experiments.stats.comparison import Comparison


class Direction(StrEnum):
    """Which way a metric is good."""

    INCREASE = "increase"
    DECREASE = "decrease"


class GuardrailState(StrEnum):
    """What is known about a guardrail."""

    PASSED = "passed"
    """Harm beyond the margin is excluded."""
    BREACHED = "breached"
    """Harm beyond the margin is shown."""
    OPEN = "open"
    """Neither; more units are needed."""


class Guardrail(NamedTuple):
    """A non-inferiority test."""

    state: GuardrailState
    worst: float
    """Worst plausible effect in the good direction's sign: negative is harm."""
    best: float
    """Best plausible effect in the good direction's sign."""
    margin: float


def non_inferiority(result: Comparison, *, margin: float, direction: Direction) -> Guardrail:
    """Test that a treatment is not worse than control by more than a margin.

    With the effect's sign turned so that positive is good: passed if the lower end of the interval
    is above -margin, breached if the upper end is below -margin, else open. Each of the two is a
    one-sided test at half the interval's alpha for a two-sided interval (a one-sided interval has
    only one informative end and can only pass or only breach). Always valid if the interval is.

    Args:
        result: Comparison whose unit is the margin's (absolute or relative).
        margin: Harm still accepted, > 0.
        direction: Which way the metric is good.

    Raises:
        ValueError: If the margin is not above 0: "no harm at all" can never be shown.

    References:
        CONSORT extension for non-inferiority trials, Piaggio et al. (2012), JAMA 308.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin!r}; allowed: above 0, the harm still accepted")
    if direction is Direction.INCREASE:
        worst, best = result.ci_lower, result.ci_upper
    else:
        worst, best = -result.ci_upper, -result.ci_lower
    return Guardrail(judge(worst, best, margin), worst, best, margin)


def judge(worst: float, best: float, margin: float) -> GuardrailState:
    """Judge an interval that is turned so that positive is good.

    Args:
        worst: Lower end.
        best: Upper end, not below `worst`.
        margin: Harm still accepted, > 0.
    """
    if best < -margin:
        return GuardrailState.BREACHED
    return GuardrailState.PASSED if worst > -margin else GuardrailState.OPEN
