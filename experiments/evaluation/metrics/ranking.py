"""Ranking: how high the relevant things stand."""

from collections.abc import Sequence

import numpy as np


def dcg(gains: Sequence[float], *, k: int | None = None) -> float:
    """Return discounted cumulative gain: sum of gain / log2(rank + 1).

    Args:
        gains: Relevance of what stands at rank 1, 2, ..., not negative.
        k: Ranks that count; None takes all.

    Raises:
        ValueError: If a gain is negative or k is not positive.

    References:
        Järvelin and Kekäläinen (2002); linear gains, as `sklearn.metrics.dcg_score`.
    """
    if k is not None and k < 1:
        raise ValueError(f"k is {k!r}, allowed: 1 and more")
    values = np.asarray(gains, dtype=float)
    if (values < 0).any():
        raise ValueError(f"a gain is negative: {float(values.min())!r}")
    values = values[:k]
    return float((values / np.log2(np.arange(2, len(values) + 2))).sum())


def ndcg(
    gains: Sequence[float], *, relevant: Sequence[float] | None = None, k: int | None = None
) -> float | None:
    """Return DCG divided by that of the best order, None if nothing is relevant.

    Args:
        gains: Relevance of what stands at rank 1, 2, ...
        relevant: Gains of everything that should have come, in any order; None where all of it is
            among `gains`.
        k: Ranks that count; None takes all.
    """
    best = dcg(sorted(gains if relevant is None else relevant, reverse=True), k=k)
    return dcg(gains, k=k) / best if best > 0 else None


def mean_reciprocal_rank(first_hits: Sequence[int | None]) -> float:
    """Return the mean of 1 / rank of the first relevant result.

    Args:
        first_hits: Its rank for every query, from 1; None where there was none, which counts as 0.

    Raises:
        ValueError: If there is no query or a rank is below 1.
    """
    if not first_hits:
        raise ValueError("there is no query; a mean needs at least one")
    wrong = [rank for rank in first_hits if rank is not None and rank < 1]
    if wrong:
        raise ValueError(f"a rank is {wrong[0]!r}, allowed: 1 and more, or None")
    return sum(0.0 if rank is None else 1.0 / rank for rank in first_hits) / len(first_hits)
