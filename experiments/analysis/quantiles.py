"""Latency quantiles of an arm: exact order statistics, and the sessions' shares below them."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.analysis.log import OUTCOMES_OF_UNIT, Log, Scope
from experiments.analysis.measures import FRESH
from experiments.stats.arm_schema import QuantileArm
from experiments.stats.distributions import norm_isf
from experiments.stats.quantile import OUTER_ALPHA


def latency_quantiles(
    log: Log, scope: Scope, variant: str, levels: Sequence[float]
) -> dict[float, QuantileArm]:
    """Return every level of an arm's latency, with its outer order statistics and clusters.

    One pass reads the durations, eight bytes an answer; one more counts, per session, how many lie
    below each quantile. With too few answers the comparison refuses, not this function.

    Args:
        log: The event file.
        scope: What is analysed.
        variant: The arm.
        levels: Levels in (0, 1).
    """
    source = (
        f"FROM exposures AS e JOIN {OUTCOMES_OF_UNIT} "
        f"WHERE {scope.where} AND e.variant = :arm AND {FRESH}"
    )
    values = scope.parameters() | {"arm": variant}
    durations = np.fromiter(
        (row[0] for row in log.rows(f"SELECT o.duration_s {source}", values)),
        dtype=np.float64,
    )
    n = int(durations.size)
    if n == 0:
        return {level: QuantileArm(n=0, value=0.0, lower=0.0, upper=0.0) for level in levels}
    ranks = {level: _ranks(level, n) for level in levels}
    wanted = sorted({rank - 1 for trio in ranks.values() for rank in trio})
    durations.partition(wanted)
    found = {
        level: tuple(float(durations[rank - 1]) for rank in trio) for level, trio in ranks.items()
    }
    del durations
    below = ", ".join(f"SUM(o.duration_s <= :level_{i}) AS c{i}" for i in range(len(levels)))
    totals = "".join(f", SUM(c{i}), SUM(c{i} * c{i}), SUM(c{i} * k)" for i in range(len(levels)))
    sql = (
        f"SELECT COUNT(*), SUM(k), SUM(k * k) {totals} FROM "  # noqa: S608 (own expressions)
        f"(SELECT COUNT(*) AS k, {below} {source} GROUP BY e.unit)"
    )
    row = log.row(sql, values | {f"level_{i}": found[v][1] for i, v in enumerate(levels)})
    return {
        level: QuantileArm(
            n=n,
            lower=found[level][0],
            value=found[level][1],
            upper=found[level][2],
            n_clusters=row[0],
            denominator_sum=float(row[1]),
            denominator_sum_squares=float(row[2]),
            sum=float(row[3 + 3 * i]),
            sum_squares=float(row[4 + 3 * i]),
            sum_products=float(row[5 + 3 * i]),
        )
        for i, level in enumerate(levels)
    }


def _ranks(level: float, n: int) -> tuple[int, int, int]:
    """Return the ranks, from 1, of the lower, the sample and the upper order statistic."""
    half = norm_isf(OUTER_ALPHA / 2.0) * math.sqrt(level * (1.0 - level) / n)
    return (
        max(1, math.floor(n * (level - half))),
        math.ceil(n * level),
        min(n, math.ceil(n * (level + half))),
    )
