"""Planning: how many units, what effect can be seen, how much power, how many days.

Every function works from variances per unit and the shares of traffic of the two arms, so a 90/10
canary is planned as honestly as a 50/50 test.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from experiments.stats.comparison import Alternative, Effect, check_alpha
from experiments.stats.distributions import norm_cdf, norm_isf, norm_sf
from experiments.stats.sequential import critical_value

_MAX_UNITS = 1e15
"""Beyond this a plan is refused as hopeless rather than printed."""

_BISECTIONS = 200


class Monitoring(StrEnum):
    """How the experiment will be looked at, which decides the critical value."""

    FIXED = "fixed"
    """One look, at the planned size."""
    SEQUENTIAL = "sequential"
    """Always-valid confidence sequence tuned to the planned size: 2.4 times the units for a look at
    the planned size; much fewer on average, because clear effects stop early."""


class NullVariance(StrEnum):
    """Variance of a difference of rates if there is none."""

    POOLED = "pooled"
    """Of the rate pooled over the planned split, as the chi-squared test uses it."""
    UNPOOLED = "unpooled"
    """The same as under the alternative, as Wald, relative and sequential intervals use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is decided before the first unit."""

    alpha: float = 0.05
    """Error rate in (0, 1)."""
    power: float = 0.8
    """Probability to find the effect, in (alpha, 1). 0.8 is the convention since Cohen (1988)."""
    alternative: Alternative = Alternative.TWO_SIDED
    share_control: float = 0.5
    """Share of the experiment's units in control, in (0, 1)."""
    share_treatment: float = 0.5
    """Share in treatment; the rest (further arms, not enrolled) counts into the total."""
    monitoring: Monitoring = Monitoring.FIXED

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if not self.alpha < self.power < 1.0:
            raise ValueError(f"power is {self.power!r}; allowed: above alpha and below 1")
        for name, share in (
            ("share_control", self.share_control),
            ("share_treatment", self.share_treatment),
        ):
            if not 0.0 < share < 1.0:
                raise ValueError(f"{name} is {share!r}; allowed: above 0 and below 1")
        if self.share_control + self.share_treatment > 1.0 + 1e-9:
            raise ValueError(
                f"shares add up to {self.share_control + self.share_treatment!r}; allowed: up to 1"
            )

    @property
    def tail(self) -> float:
        """Error rate of one tail."""
        return self.alpha / 2.0 if self.alternative is Alternative.TWO_SIDED else self.alpha

    def critical(self) -> float:
        """Return half-width / standard error at the planned size."""
        if self.monitoring is Monitoring.FIXED:
            return norm_isf(self.tail)
        two_sided = self.alternative is Alternative.TWO_SIDED
        # With n_star = n the value does not depend on n.
        return critical_value(1.0, alpha=self.alpha, n_star=1.0, two_sided=two_sided)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """Units an experiment needs."""

    total: int
    """All units of the experiment, arms that are not compared included."""
    control: int
    treatment: int
    design: Design
    effect: float
    """The effect it is planned for, absolute."""


def power_of(
    effect: float, standard_error: float, design: Design, *, null_error: float | None = None
) -> float:
    """Return the probability that the interval excludes zero at one look.

    Two-sided: 1 - Phi((c s0 - d) / s) + Phi((-c s0 - d) / s), the wrong direction included, with c
    the critical value, s the standard error under the effect and s0 under the null (equal unless
    given, as for pooled proportions).

    Args:
        effect: True effect d.
        standard_error: Standard error s at the planned size.
        design: Alpha, alternative and monitoring.
        null_error: Standard error s0 under the null.
    """
    critical = design.critical() * (standard_error if null_error is None else null_error)
    up = norm_sf((critical - effect) / standard_error)
    down = norm_cdf((-critical - effect) / standard_error)
    match design.alternative:
        case Alternative.TWO_SIDED:
            return up + down
        case Alternative.GREATER:
            return up
        case Alternative.LESS:
            return down


def sample_size(
    effect: float,
    variance_control: float,
    variance_treatment: float,
    design: Design,
    *,
    null_variance: float | None = None,
    design_effect: float = 1.0,
) -> SampleSize:
    """Return the units for a mean, a ratio (delta variance per cluster) or any unit variance.

    N = (c s0 + z_power s1)^2 / d^2 with s1^2 = v_A / w_A + v_B / w_B and s0^2 the same with the
    null variance in both arms; without one s0 = s1 and this is the textbook
    (z_{a/2} + z_b)^2 (v_A / w_A + v_B / w_B) / d^2. The chance of a significant result in the wrong
    direction is neglected (it is below 1e-4 at 80 % power).

    Args:
        effect: Absolute effect to find, not 0.
        variance_control: Variance of one unit in control.
        variance_treatment: Variance of one unit in treatment.
        design: Error rate, power, split, monitoring.
        null_variance: Unit variance of both arms under the null, for pooled proportions.
        design_effect: Factor >= 1 for clustered units when variances are per request, 1 + (m - 1)
            ICC with m requests per session; 1 if the variances are per session (delta method).

    Returns:
        Total and per-arm units, each rounded up.

    Raises:
        ValueError: If the effect is 0 or too small to be found with 1e15 units.

    References:
        Lachin (1981), "Introduction to sample size determination and power analysis for clinical
        trials", Controlled Clinical Trials 2; Kish (1965) for the design effect.
    """
    if effect == 0 or not math.isfinite(effect):
        raise ValueError(f"effect is {effect!r}; allowed: any finite effect but 0")
    if not (variance_control >= 0 and variance_treatment >= 0):
        raise ValueError("variances must be 0 or more")
    alternative_scale = math.sqrt(
        variance_control / design.share_control + variance_treatment / design.share_treatment
    )
    null_scale = alternative_scale
    if null_variance is not None:
        inverse = 1.0 / design.share_control + 1.0 / design.share_treatment
        null_scale = math.sqrt(null_variance * inverse)
    reach = design.critical() * null_scale + norm_isf(1.0 - design.power) * alternative_scale
    total = max(2.0, design_effect * (reach / effect) ** 2)
    if total > _MAX_UNITS:
        raise ValueError(f"an effect of {effect!r} needs {total:.3g} units; plan a larger effect")
    # Below a relative 1e-9 a fraction of a unit is rounding, not a unit.
    control = math.ceil(total * design.share_control * (1.0 - 1e-12) - 1e-9)
    treatment = math.ceil(total * design.share_treatment * (1.0 - 1e-12) - 1e-9)
    return SampleSize(
        total=max(control + treatment, math.ceil(total - 1e-9)),
        control=control,
        treatment=treatment,
        design=design,
        effect=effect,
    )


def sample_size_proportions(
    rate: float,
    mde: float,
    design: Design,
    *,
    effect: Effect = Effect.ABSOLUTE,
    null_variance: NullVariance = NullVariance.POOLED,
) -> SampleSize:
    """Return the units to find a change of a rate.

    The variance under the alternative is unpooled. 0.70 -> 0.75 at 80 % needs 2,502 units at 50/50
    with the pooled null of the chi-squared test and 2,496 unpooled; at 90/10 it is 7,062 and
    6,619, because a pooled rate sits near the large arm.

    Args:
        rate: Control rate in (0, 1).
        mde: Change to find, absolute (0.05 = five points) or relative (0.05 = five percent).
        design: Error rate, power, split, monitoring.
        effect: How `mde` is meant.
        null_variance: Which test it is planned for.

    References:
        Fleiss, Levin, Paik (2003), "Statistical methods for rates and proportions", eq. 4.14,
        extended to unequal shares.
    """
    treatment = rate + (mde if effect is Effect.ABSOLUTE else rate * mde)
    for name, value in (("rate", rate), ("rate + mde", treatment)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} is {value!r}; allowed: above 0 and below 1")
    weight = design.share_treatment / (design.share_control + design.share_treatment)
    pooled = (1.0 - weight) * rate + weight * treatment
    return sample_size(
        treatment - rate,
        rate * (1.0 - rate),
        treatment * (1.0 - treatment),
        design,
        null_variance=(pooled * (1.0 - pooled) if null_variance is NullVariance.POOLED else None),
    )


def relative_variances(
    mean: float, variance_control: float, variance_treatment: float, lift: float
) -> tuple[float, float]:
    """Return unit variances of the relative effect at a lift, delta method.

    (v_A (1 + d)^2 / m^2, v_B / m^2): feed them to `sample_size` with the lift as the effect to
    plan a test of a relative effect.
    """
    if mean == 0:
        raise ValueError("mean is 0, so a relative effect is undefined; plan an absolute one")
    squared = mean * mean
    return variance_control * (1.0 + lift) ** 2 / squared, variance_treatment / squared


def minimum_detectable_effect(
    n_total: float,
    variance_control: float,
    variance_treatment: float,
    design: Design,
    *,
    design_effect: float = 1.0,
) -> float:
    """Return the smallest absolute effect found with the design's power: (c + z_b) s.

    Args:
        n_total: Units of the experiment, > 0.
        variance_control: Variance of one unit in control.
        variance_treatment: Variance of one unit in treatment.
        design: Error rate, power, split, monitoring.
        design_effect: See `sample_size`.
    """
    if not n_total > 0:
        raise ValueError(f"n_total is {n_total!r}; allowed: above 0")
    scale = variance_control / design.share_control + variance_treatment / design.share_treatment
    error = math.sqrt(design_effect * scale / n_total)
    return (design.critical() + norm_isf(1.0 - design.power)) * error


def mde_proportions(n_total: float, rate: float, design: Design) -> float:
    """Return the smallest rise of a rate found with `n_total` units, absolute.

    Inverts `sample_size_proportions` by bisection, because the variance moves with the rate.

    Raises:
        ValueError: If even a rise to almost 1 is not found.
    """
    low, high = 0.0, 1.0 - rate
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if sample_size_proportions(rate, middle, design).total > n_total:
            low = middle
        else:
            high = middle
    if high >= (1.0 - rate) * (1.0 - 1e-9):
        raise ValueError(f"{n_total!r} units cannot find any rise of a rate of {rate!r}")
    return high


def days_left(needed: float, collected: float, per_day: float) -> int:
    """Return the days until the planned size at the present traffic, rounded up.

    Args:
        needed: Planned units of the experiment.
        collected: Units so far.
        per_day: Newly enrolled units per day, > 0.
    """
    if not per_day > 0:
        raise ValueError(f"per_day is {per_day!r}; allowed: above 0 units per day")
    return max(0, math.ceil((needed - collected) / per_day))
