"""From two arms to an effect with a standard error, absolute or relative."""

import math
from typing import NamedTuple

from experiments.stats.comparison import Effect
from experiments.stats.cuped import AdjustedStats
from experiments.stats.errors import TooFewUnits, ZeroBaseline, ZeroVariance
from experiments.stats.moments import ArmStatistic


class EffectEstimate(NamedTuple):
    """An effect before a reference distribution is chosen."""

    effect: float
    standard_error: float
    df: float
    """Welch-Satterthwaite degrees of freedom."""
    n_control: int
    n_treatment: int
    control: float
    treatment: float


def estimate_effect(
    control: ArmStatistic, treatment: ArmStatistic, effect: Effect = Effect.ABSOLUTE
) -> EffectEstimate:
    """Estimate the effect of any metric whose arms have an estimate and a unit variance.

    Absolute: m_B - m_A with variance v_A / n_A + v_B / n_B. Relative, first-order delta method:

        d = (m_B - m_A) / |m_A|
        Var(d) = v_B / (n_B m_A^2) + v_A m_B^2 / (n_A m_A^4)

    The absolute value keeps the sign of the change with a negative baseline. CUPED arms divide by
    the unadjusted control mean and account for its covariance with the adjusted one. The degrees
    of freedom are those of the absolute difference in every case.

    Args:
        control: Control arm.
        treatment: Treatment arm.
        effect: Absolute or relative.

    Returns:
        The estimate.

    Raises:
        TooFewUnits: If an arm has no unit, or fewer than two where a variance is sampled.
        ZeroVariance: If neither arm varies.
        ZeroBaseline: If a relative effect has a control value of 0.

    References:
        Deng, Knoblich, Lu (2018), arXiv:1803.06336, section 3.1 (relative difference);
        Welch (1947), Biometrika 34, for the degrees of freedom.
    """
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n < 1:
            raise TooFewUnits(f"the {name} arm is empty; a comparison needs units in both arms")
    variance_a = control.variance / control.n
    variance_b = treatment.variance / treatment.n
    if variance_a + variance_b <= 0:
        raise ZeroVariance(
            "no unit differs from another in either arm, so there is no standard error; "
            "check that the metric is logged per unit"
        )
    df = welch_df(variance_a, control.n, variance_b, treatment.n)
    difference = treatment.estimate - control.estimate
    value, variance = difference, variance_a + variance_b
    if effect is Effect.RELATIVE:
        value, variance = _relative(control, treatment, difference, variance_a, variance_b)
    return EffectEstimate(
        value,
        math.sqrt(variance),
        df,
        control.n,
        treatment.n,
        _level(control),
        _level(treatment),
    )


def welch_df(variance_a: float, n_a: int, variance_b: float, n_b: int) -> float:
    """Return the Welch-Satterthwaite degrees of freedom.

    Args:
        variance_a: Variance of the mean of arm A, v_A / n_A.
        n_a: Units of arm A.
        variance_b: Variance of the mean of arm B.
        n_b: Units of arm B.

    Raises:
        TooFewUnits: If an arm has fewer than two units.
    """
    if min(n_a, n_b) < 2:
        raise TooFewUnits(f"a t test needs 2 units in each arm; there are {n_a} and {n_b}")
    total = variance_a + variance_b
    # Shares first: squares of variances near 1e-170 would underflow.
    share_a, share_b = variance_a / total, variance_b / total
    return 1.0 / (share_a * share_a / (n_a - 1) + share_b * share_b / (n_b - 1))


def _relative(
    control: ArmStatistic,
    treatment: ArmStatistic,
    difference: float,
    variance_a: float,
    variance_b: float,
) -> tuple[float, float]:
    baseline = _level(control)
    if baseline == 0:
        raise ZeroBaseline(
            "the control value is 0, so a relative effect is undefined; ask for the absolute one"
        )
    value = difference / abs(baseline)
    if not isinstance(control, AdjustedStats):
        ratio = treatment.estimate / baseline
        return value, (variance_b + variance_a * ratio * ratio) / (baseline * baseline)
    # d = (m'_B - m'_A) / |m_A| with m_A and m'_A correlated; gradient in (m_A, m'_A) is
    # (-d / m_A, -1 / |m_A|). d is taken without the covariate here: randomisation makes the
    # covariate's difference zero in expectation, and its noise does not belong into a variance.
    lift = _level(treatment) / baseline - 1.0
    variance_control = (
        lift * lift * control.metric_variance
        + 2.0 * lift * control.metric_adjusted_covariance
        + control.variance
    ) / control.n
    return value, (variance_b + max(0.0, variance_control)) / (baseline * baseline)


def _level(arm: ArmStatistic) -> float:
    return arm.unadjusted if isinstance(arm, AdjustedStats) else arm.estimate
