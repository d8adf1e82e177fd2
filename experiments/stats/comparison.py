"""The result of comparing a treatment with its control, and the words that describe it."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    """What is estimated."""

    ABSOLUTE = "absolute"
    """Treatment minus control, in the metric's unit."""
    RELATIVE = "relative"
    """(Treatment minus control) / |control|, a share: 0.05 is five percent up."""


class Alternative(StrEnum):
    """The alternative hypothesis about the effect."""

    TWO_SIDED = "two-sided"
    GREATER = "greater"
    """The effect is above zero; the interval is [lower, inf)."""
    LESS = "less"
    """The effect is below zero; the interval is (-inf, upper]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An effect with its uncertainty.

    One-sided intervals have an infinite end (`null` in JSON).
    """

    effect: float
    """Point estimate: metric unit if absolute, share if relative."""
    ci_lower: float
    """Lower end of the (1 - alpha) interval; -inf where unbounded."""
    ci_upper: float
    """Upper end of the (1 - alpha) interval; inf where unbounded."""
    standard_error: float
    """Standard error of `effect`, same unit."""
    p_value: float
    """P-value against a zero effect, in [0, 1]; anytime-valid if `always_valid`."""
    method: str
    """Name of the exact variant, documented at the function that made it."""
    effect_kind: Effect
    alternative: Alternative
    alpha: float
    """Error rate of interval and test, in (0, 1)."""
    n_control: int
    """Units (analysis units, not requests) in control."""
    n_treatment: int
    """Units in treatment."""
    control: float
    """Value of the metric in control."""
    treatment: float
    """Value of the metric in treatment."""
    always_valid: bool = False
    """True if looking as often as one likes keeps the error rate."""
    df: float = math.inf
    """Degrees of freedom of the reference distribution; inf means normal."""

    @property
    def half_width(self) -> float:
        """Distance from the effect to its nearer finite end."""
        return min(self.effect - self.ci_lower, self.ci_upper - self.effect)

    @property
    def significant(self) -> bool:
        """True if the interval excludes zero."""
        return self.ci_lower > 0 or self.ci_upper < 0


def check_alpha(alpha: float, alternative: Alternative = Alternative.TWO_SIDED) -> None:
    """Refuse an error rate that makes no interval around the estimate.

    Raises:
        ValueError: If it is outside (0, 1), or not below 0.5 for a one-sided alternative.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha!r}; allowed: above 0 and below 1, such as 0.05")
    if alternative is not Alternative.TWO_SIDED and alpha >= 0.5:
        raise ValueError(f"alpha is {alpha!r}; allowed: below 0.5 for a one-sided alternative")


def one_sided_bounds(alternative: Alternative, lower: float, upper: float) -> tuple[float, float]:
    """Open the side of an interval that the alternative leaves open."""
    match alternative:
        case Alternative.TWO_SIDED:
            return lower, upper
        case Alternative.GREATER:
            return lower, math.inf
        case Alternative.LESS:
            return -math.inf, upper
