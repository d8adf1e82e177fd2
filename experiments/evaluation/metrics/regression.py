"""Regression: how far predicted numbers are from measured ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class RegressionErrors(NamedTuple):
    """Errors of one predictor."""

    n: int
    mse: float
    rmse: float
    mae: float
    r2: float | None
    """Share of the variance that is explained; negative when the mean would do better, None when
    the measured values do not vary."""


def regression_errors(truth: Sequence[float], predicted: Sequence[float]) -> RegressionErrors:
    """Compare predictions with measured values.

    Args:
        truth: Measured values, at least one.
        predicted: Predictions, of the same length.

    Raises:
        ValueError: If the lengths differ, nothing is given, or a value is not finite.
    """
    real, given = np.asarray(truth, dtype=float), np.asarray(predicted, dtype=float)
    if real.shape != given.shape or real.ndim != 1 or not real.size:
        raise ValueError(
            f"truth has the shape {real.shape} and predicted {given.shape}; "
            "both need the same number of values, at least one"
        )
    if not (np.isfinite(real).all() and np.isfinite(given).all()):
        raise ValueError("a value is not finite")
    errors = given - real
    mse = float(np.mean(errors**2))
    spread = float(np.sum((real - real.mean()) ** 2))
    return RegressionErrors(
        n=real.size,
        mse=mse,
        rmse=float(np.sqrt(mse)),
        mae=float(np.mean(np.abs(errors))),
        r2=1.0 - float(np.sum(errors**2)) / spread if spread > 0 else None,
    )
