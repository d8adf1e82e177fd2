"""By what sums are kept apart: a day, or something else known before the variant answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from experiments.analysis.columns import Coded, Ints, coded, floats

DAY = "day"
"""UTC day of the first exposure, as days since the epoch."""
ALL = "0"
"""One key for all."""

_SECONDS_PER_DAY = 86_400
_QUARTER_S = 21_600

SLICES: dict[str, str] = {
    "served model": "served_model",
    "tenant": "tenant",
    "time of day (UTC)": "time of day",
}
"""Dimensions by which the primary metrics are sliced, and their keys. All are known before the
variant answers: to slice by what the answer says, an intent for instance, would compare different
people."""


def _days(exposures: pa.Table) -> Coded:
    # Towards zero, as a cast to an integer goes.
    days = np.trunc(floats(exposures["exposed_at"]) / _SECONDS_PER_DAY).astype(np.int64)
    return _numbered(days, int)


def _quarters(exposures: pa.Table) -> Coded:
    quarters = np.trunc(floats(exposures["exposed_at"]) / _QUARTER_S).astype(np.int64) % 4
    return _numbered(quarters, lambda q: f"{q * 6:02d}-{q * 6 + 6:02d} h")


def _numbered(values: Ints, name: Callable[[int], Any]) -> Coded:
    lowest = int(values.min()) if len(values) else 0
    span = int(values.max()) - lowest if len(values) else 0
    if span > len(values):  # a wrong clock: days centuries apart
        found, codes = np.unique(values, return_inverse=True)
    else:
        found = np.flatnonzero(np.bincount(values - lowest)) + lowest
        codes = np.searchsorted(found, values)
    return Coded(codes.astype(np.int64), tuple(name(int(value)) for value in found))


_KEYS: dict[str, Callable[[pa.Table], Coded]] = {
    DAY: _days,
    ALL: lambda exposures: Coded(np.zeros(exposures.num_rows, dtype=np.int64), (ALL,)),
    "served_model": lambda exposures: coded(exposures["served_model"]),
    "tenant": lambda exposures: coded(exposures["tenant"]),
    "time of day": _quarters,
}


def key_of(name: str, exposures: pa.Table) -> Coded:
    """Return the key of every exposure.

    Args:
        name: One of this module's.
        exposures: Columns of a piece.
    """
    return _KEYS[name](exposures)
