"""Latency quantiles of an arm: exact order statistics, and the sessions' shares below them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.analysis.columns import Ints
from experiments.analysis.log import Log, Scope
from experiments.analysis.pieces import Durations, Task
from experiments.analysis.survey import survey
from experiments.stats.arm_schema import QuantileArm
from experiments.stats.distributions import norm_isf
from experiments.stats.quantile import OUTER_ALPHA


def latency_quantiles(
    log: Log, scope: Scope, variant: str, levels: Sequence[float]
) -> dict[float, QuantileArm]:
    """Return every level of an arm's latency, with its outer order statistics and clusters.

    Args:
        log: The event file.
        scope: What is analysed.
        variant: The arm.
        levels: Levels in (0, 1).
    """
    task = Task(scope.experiment, scope.version, until=None, durations=True)
    return quantiles_of(survey(log, task).durations, scope, variant, levels)


def quantiles_of(
    found: Iterable[Durations], scope: Scope, variant: str, levels: Sequence[float]
) -> dict[float, QuantileArm]:
    """Return every level of an arm's latency, from the durations of the pieces.

    Nine bytes an answer. With too few answers the comparison refuses, not this function.

    Args:
        found: Of all pieces.
        scope: What is analysed.
        variant: The arm.
        levels: Levels in (0, 1).
    """
    parts = [d for d in found if d.variant == variant and scope.has(d.config_hash, variant)]
    n = sum(len(part.values) for part in parts)
    if n == 0:
        return {level: QuantileArm(n=0, value=0.0, lower=0.0, upper=0.0) for level in levels}
    seconds = np.concatenate([part.values for part in parts])
    ranks = {level: _ranks(level, n) for level in levels}
    seconds.partition(sorted({rank - 1 for trio in ranks.values() for rank in trio}))
    values = {
        level: tuple(float(seconds[rank - 1]) for rank in trio) for level, trio in ranks.items()
    }
    del seconds
    answers = [_integers(part.counts) for part in parts]
    return {
        level: QuantileArm(
            n=n,
            lower=values[level][0],
            value=values[level][1],
            upper=values[level][2],
            n_clusters=sum(len(k) for k in answers),
            denominator_sum=float(sum(int(k.sum()) for k in answers)),
            denominator_sum_squares=float(sum(int((k * k).sum()) for k in answers)),
            **_below(parts, values[level][1]),
        )
        for level in levels
    }


def _below(parts: Sequence[Durations], value: float) -> dict[str, float]:
    """Return the sums over sessions of their answers up to a value; of integers, hence exact."""
    total = squares = products = 0
    for part in parts:
        counts = _integers(part.counts)
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        below = np.add.reduceat((part.values <= value).astype(np.int64), starts)
        total += int(below.sum())
        squares += int((below * below).sum())
        products += int((below * counts).sum())
    return {
        "sum": float(total),
        "sum_squares": float(squares),
        "sum_products": float(products),
    }


def _integers(counts: npt.NDArray[Any]) -> Ints:
    return counts.astype(np.int64)


def _ranks(level: float, n: int) -> tuple[int, int, int]:
    """Return the ranks, from 1, of the lower, the sample and the upper order statistic."""
    half = norm_isf(OUTER_ALPHA / 2.0) * math.sqrt(level * (1.0 - level) / n)
    return (
        max(1, math.floor(n * (level - half))),
        math.ceil(n * level),
        min(n, math.ceil(n * (level + half))),
    )
