"""Post-stratification: compare within strata (channel, dealer, device, period), then average.

For periods of a moving split this is inverse-probability weighting with weights normalised in each
period (Hajek): the probability is one number per period and arm, so every session of an arm has the
same weight there, and the arms get the same mix of periods however the split moved.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from experiments.stats.comparison import Effect
from experiments.stats.effects import EffectEstimate, welch_df
from experiments.stats.errors import TooFewUnits, ZeroBaseline, ZeroVariance
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.ratio import RatioStats


class Stratum(NamedTuple):
    """The two arms inside one stratum."""

    control: MeanStats | ProportionStats | RatioStats
    treatment: MeanStats | ProportionStats | RatioStats


class Weights(StrEnum):
    """What the strata's shares are."""

    SAMPLED = "sampled"
    """Shares of the sample estimate those of the population: their own noise is added."""
    FIXED = "fixed"
    """Shares are those of the population one speaks about: no extra variance."""


def estimate_effect(
    strata: Sequence[Stratum],
    effect: Effect = Effect.ABSOLUTE,
    *,
    weights: Weights = Weights.SAMPLED,
) -> EffectEstimate:
    """Estimate an effect as the weighted mean of the effects of strata.

    With w_s = n_s / n: effect = sum w_s (m_Bs - m_As), variance = sum w_s^2 (v_As / n_As +
    v_Bs / n_Bs), plus [sum w_s d_s^2 - effect^2] / n when the shares are sampled. Relative effects
    divide by |sum w_s m_As| and use the delta method on (effect, control mean), whose covariance
    is -sum w_s^2 v_As / n_As plus the same multinomial term. Strata must be fixed before exposure;
    a stratum with fewer than two units in an arm must be merged by the caller.

    Args:
        strata: At least one stratum, means, proportions or ratios alike in all.
        effect: Absolute or relative.
        weights: Whether the shares are sampled (superpopulation) or fixed.

    Returns:
        The estimate; degrees of freedom are Welch's of the unstratified arms.

    Raises:
        TooFewUnits: If there is no stratum, or one with fewer than two units in an arm.
        ZeroBaseline: If a relative effect has a control mean of 0.
        ZeroVariance: If nothing varies.

    References:
        Miratrix, Sekhon, Yu (2013), "Adjusting treatment effect estimates by post-stratification
        in randomized experiments", JRSS B 75, 369-396; the multinomial term is the law of total
        variance over the shares.
    """
    if not strata:
        raise TooFewUnits("post-stratification needs at least 1 stratum, got none")
    for index, (control, treatment) in enumerate(strata):
        if min(control.n, treatment.n) < 2:
            raise TooFewUnits(
                f"stratum {index} has {control.n} control and {treatment.n} treatment units; each "
                "arm needs 2 in every stratum. Merge small strata into one"
            )
    total = sum(stratum.control.n + stratum.treatment.n for stratum in strata)
    shares = [(stratum.control.n + stratum.treatment.n) / total for stratum in strata]
    levels = [stratum.control.estimate for stratum in strata]
    effects = [stratum.treatment.estimate - stratum.control.estimate for stratum in strata]
    var_a = sum(w * w * s.control.variance / s.control.n for w, s in _zip(shares, strata))
    var_b = sum(w * w * s.treatment.variance / s.treatment.n for w, s in _zip(shares, strata))
    level = sum(w * m for w, m in zip(shares, levels, strict=True))
    value = sum(w * d for w, d in zip(shares, effects, strict=True))
    var_effect, var_level, covariance = var_a + var_b, var_a, -var_a
    if weights is Weights.SAMPLED:
        var_effect += _between(shares, effects, effects) / total
        var_level += _between(shares, levels, levels) / total
        covariance += _between(shares, effects, levels) / total
    if var_effect <= 0:
        raise ZeroVariance("no unit differs from another in any stratum; no standard error exists")
    variance, result = var_effect, value
    if effect is Effect.RELATIVE:
        if level == 0:
            raise ZeroBaseline("the control mean is 0; ask for the absolute effect")
        lift = value / level
        result = value / abs(level)
        variance = (var_effect - 2.0 * lift * covariance + lift * lift * var_level) / level**2
    return EffectEstimate(
        result, math.sqrt(variance), _pooled_df(strata), *_sizes(strata), level, level + value
    )


def _zip(shares: Sequence[float], strata: Sequence[Stratum]) -> list[tuple[float, Stratum]]:
    return list(zip(shares, strata, strict=True))


def _between(shares: Sequence[float], x: Sequence[float], y: Sequence[float]) -> float:
    mean_x = sum(w * a for w, a in zip(shares, x, strict=True))
    mean_y = sum(w * b for w, b in zip(shares, y, strict=True))
    return sum(w * (a - mean_x) * (b - mean_y) for w, a, b in zip(shares, x, y, strict=True))


def _sizes(strata: Sequence[Stratum]) -> tuple[int, int]:
    return sum(s.control.n for s in strata), sum(s.treatment.n for s in strata)


def _pooled_df(strata: Sequence[Stratum]) -> float:
    variances = []
    for arms in ([s.control for s in strata], [s.treatment for s in strata]):
        n = sum(arm.n for arm in arms)
        mean = sum(arm.n * arm.estimate for arm in arms) / n
        within = sum((arm.n - 1) * arm.variance for arm in arms)
        between = sum(arm.n * (arm.estimate - mean) ** 2 for arm in arms)
        variances.append(((within + between) / (n - 1) / n, n))
    (var_a, n_a), (var_b, n_b) = variances
    return welch_df(var_a, n_a, var_b, n_b)
