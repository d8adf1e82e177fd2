"""Winsorising: cap unit-level values at a percentile of both arms together.

One customer who sends a thousand messages must not decide an experiment. The cap comes from the
pooled arms: per-arm caps would erase part of the effect and bias the comparison. Quantile metrics
are never winsorised; they are robust already.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.errors import InvalidStatistic, TooFewUnits

DEFAULT_UPPER = 0.999
"""Percentile of the pooled non-zero unit values, as in Statsig's default."""


class Winsorised(NamedTuple):
    """Capped values and what was capped."""

    control: NDArray[np.float64]
    treatment: NDArray[np.float64]
    lower: float
    """Floor that was applied; -inf if none."""
    upper: float
    """Cap that was applied; inf if none."""
    n_capped: int
    """Units changed, both arms."""


def winsorise(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    lower: float | None = None,
    upper: float | None = DEFAULT_UPPER,
    ignore_zeros: bool = True,
) -> Winsorised:
    """Cap both arms at percentiles of the pooled values.

    The percentile is numpy's `inverted_cdf` (an observed value, no interpolation), so the cap is
    the same whichever arm the extreme unit is in.

    Args:
        control: Values per unit, shape (n_a,), finite.
        treatment: Values per unit, shape (n_b,), finite.
        lower: Percentile in [0, 0.5) below which values are raised; None for no floor.
        upper: Percentile in (0.5, 1] above which values are lowered; None for no cap.
        ignore_zeros: Take the percentiles over non-zero values, for metrics that most units do not
            have (revenue); otherwise a 99.9 % cap of a sparse metric can be 0.

    Raises:
        InvalidStatistic: If a value is not finite or a percentile is out of range.
        TooFewUnits: If both arms are empty.
    """
    a, b = np.asarray(control, dtype=np.float64), np.asarray(treatment, dtype=np.float64)
    pooled = np.concatenate([a.ravel(), b.ravel()])
    if pooled.size == 0:
        raise TooFewUnits("winsorising needs at least 1 unit, both arms are empty")
    if not np.isfinite(pooled).all():
        raise InvalidStatistic("a value is NaN or infinite; drop or repair it before winsorising")
    if lower is not None and not 0.0 <= lower < 0.5:
        raise InvalidStatistic(f"lower is {lower!r}; allowed: 0 up to below 0.5")
    if upper is not None and not 0.5 < upper <= 1.0:
        raise InvalidStatistic(f"upper is {upper!r}; allowed: above 0.5 up to 1")
    basis = pooled[pooled != 0.0] if ignore_zeros and (pooled != 0.0).any() else pooled
    floor = -np.inf if lower is None else float(np.quantile(basis, lower, method="inverted_cdf"))
    cap = np.inf if upper is None else float(np.quantile(basis, upper, method="inverted_cdf"))
    changed = int(((pooled < floor) | (pooled > cap)).sum())
    return Winsorised(np.clip(a, floor, cap), np.clip(b, floor, cap), floor, cap, changed)
