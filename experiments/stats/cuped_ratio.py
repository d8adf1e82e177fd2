"""CUPED for ratio metrics: the ratio during the experiment, adjusted by the ratio before it."""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Self

import numpy as np
from numpy.typing import NDArray

from experiments.stats.comparison import Effect
from experiments.stats.effects import EffectEstimate, welch_df
from experiments.stats.errors import InvalidStatistic, ZeroBaseline, ZeroVariance
from experiments.stats.moments import (
    centred,
    check_count,
    check_finite,
    check_products,
    check_two,
)

_WIDTH = 4
"""Numerator, denominator, covariate numerator, covariate denominator, in this order."""

_PAIRS = tuple(combinations_with_replacement(range(_WIDTH), 2))
"""Order of `CupedRatioStats.products`: (0,0), (0,1), ... (3,3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CupedRatioStats:
    """Sums over units of the vector (numerator, denominator, pre-numerator, pre-denominator)."""

    n: int
    """Units."""
    sums: tuple[float, float, float, float]
    """Sum of each component."""
    products: tuple[float, ...]
    """Ten sums of products, upper triangle row by row: xx, xy, xu, xv, yy, yu, yv, uu, uv, vv."""

    def __post_init__(self) -> None:
        check_count("n", self.n)
        if len(self.products) != len(_PAIRS):
            raise InvalidStatistic(f"products has {len(self.products)} entries; allowed: 10")
        check_finite(**{f"sums[{i}]": value for i, value in enumerate(self.sums)})
        check_finite(**{f"products[{i}]": value for i, value in enumerate(self.products)})
        if not self.n:
            return
        by_pair = dict(zip(_PAIRS, self.products, strict=True))
        spread = [
            (total, centred(f"products of {i}", by_pair[i, i], total, self.n))
            for i, total in enumerate(self.sums)
        ]
        for (i, j), product in by_pair.items():
            check_products(f"products of {i} and {j}", product, self.n, spread[i], spread[j])

    @property
    def means(self) -> NDArray[np.float64]:
        """Means of the four components, shape (4,)."""
        check_two(self.n)
        return np.array(self.sums, dtype=np.float64) / self.n

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Unbiased covariance of the four components, shape (4, 4)."""
        check_two(self.n)
        matrix = np.zeros((_WIDTH, _WIDTH))
        for (i, j), product in zip(_PAIRS, self.products, strict=True):
            value = centred("products", product, self.sums[i], self.n, self.sums[j])
            matrix[i, j] = matrix[j, i] = value / (self.n - 1)
        return matrix

    def __add__(self, other: Self) -> Self:
        a, b = self.sums, other.sums
        return type(self)(
            n=self.n + other.n,
            sums=(a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]),
            products=tuple(x + y for x, y in zip(self.products, other.products, strict=True)),
        )


def estimate_effect(
    control: CupedRatioStats, treatment: CupedRatioStats, effect: Effect = Effect.ABSOLUTE
) -> EffectEstimate:
    """Estimate the effect on R = X / Y adjusted by theta times R_pre = U / V.

    Each arm's adjusted ratio is R - theta R_pre with first-order delta variance over the four
    means. theta = sum_arms cov(R, R_pre) / sum_arms var(R_pre), with unit-level delta moments per
    arm (not the moments of the pooled sample). A relative effect divides by the unadjusted
    control ratio and carries its covariance with the adjusted one.

    Args:
        control: Sums of the control, at least two units.
        treatment: Sums of the treatment.
        effect: Absolute or relative.

    Returns:
        The estimate; `control` and `treatment` are the unadjusted ratios.

    Raises:
        ZeroBaseline: If a denominator, or the control ratio of a relative effect, is 0.
        ZeroVariance: If the covariate ratio or the adjusted ratio does not vary.

    References:
        Deng, Xu, Kohavi, Walker (2013), WSDM, section 3 and appendix B; Deng, Knoblich, Lu (2018),
        arXiv:1803.06336. The choice of theta is GrowthBook's.
    """
    theta = _theta(control, treatment)
    ratio_a, pre_a = _ratios(control)
    ratio_b, pre_b = _ratios(treatment)
    difference = (ratio_b - theta * pre_b) - (ratio_a - theta * pre_a)
    grad_a, grad_b = _gradient(control, theta), _gradient(treatment, theta)
    var_a = _quadratic(grad_a, control) / control.n
    var_b = _quadratic(grad_b, treatment) / treatment.n
    if var_a + var_b <= 0:
        raise ZeroVariance("the adjusted ratio does not vary, so there is no standard error")
    df = welch_df(var_a, control.n, var_b, treatment.n)
    value, variance = difference, var_a + var_b
    if effect is Effect.RELATIVE:
        if ratio_a == 0:
            raise ZeroBaseline("the control ratio is 0; ask for the absolute effect")
        lift = difference / ratio_a
        post = _gradient(control, 0.0)
        var_a = _quadratic(lift * post + grad_a, control) / control.n
        value, variance = difference / abs(ratio_a), (var_a + var_b) / (ratio_a * ratio_a)
    return EffectEstimate(
        value, float(np.sqrt(variance)), df, control.n, treatment.n, ratio_a, ratio_b
    )


def _ratios(arm: CupedRatioStats) -> tuple[float, float]:
    x, y, u, v = (float(mean) for mean in arm.means)
    if y == 0 or v == 0:
        raise ZeroBaseline("a denominator adds up to 0, so the ratio is undefined")
    return x / y, u / v


def _gradient(arm: CupedRatioStats, theta: float) -> NDArray[np.float64]:
    _ratios(arm)
    x, y, u, v = arm.means
    return np.array([1.0 / y, -x / y**2, -theta / v, theta * u / v**2])


def _quadratic(gradient: NDArray[np.float64], arm: CupedRatioStats) -> float:
    return max(0.0, float(gradient @ arm.covariance @ gradient))


def _theta(control: CupedRatioStats, treatment: CupedRatioStats) -> float:
    covariance = variance = 0.0
    for arm in (control, treatment):
        post = _gradient(arm, 0.0)
        pre = post - _gradient(arm, 1.0)
        matrix = arm.covariance
        covariance += float(post @ matrix @ pre)
        variance += float(pre @ matrix @ pre)
    if variance <= 0:
        raise ZeroVariance("the covariate ratio is constant; analyse the plain ratio")
    return covariance / variance
