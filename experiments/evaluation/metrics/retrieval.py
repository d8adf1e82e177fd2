"""Retrieval: which of the wanted documents came, and how early."""

from collections.abc import Collection, Hashable, Sequence


def precision_at(found: Sequence[Hashable], wanted: Collection[Hashable], k: int) -> float:
    """Return the share of the first k results that are wanted; missing ones count as misses.

    Raises:
        ValueError: If k is not positive.
    """
    return _hits(found, wanted, k) / k


def recall_at(found: Sequence[Hashable], wanted: Collection[Hashable], k: int) -> float | None:
    """Return the share of what is wanted among the first k results, None if nothing is wanted.

    Raises:
        ValueError: If k is not positive.
    """
    hits = _hits(found, wanted, k)
    return hits / len(set(wanted)) if wanted else None


def average_precision(found: Sequence[Hashable], wanted: Collection[Hashable]) -> float | None:
    """Return the mean of the precisions at the rank of every wanted result.

    Wanted documents that were not found count as 0. None if nothing is wanted.

    Raises:
        ValueError: If a result stands there twice.
    """
    _distinct(found)
    total, hits = 0.0, 0
    for rank, name in enumerate(found, start=1):
        if name in wanted:
            hits += 1
            total += hits / rank
    return total / len(set(wanted)) if wanted else None


def first_hit(found: Sequence[Hashable], wanted: Collection[Hashable]) -> int | None:
    """Return the rank of the first wanted result, for the mean reciprocal rank."""
    return next((rank for rank, name in enumerate(found, start=1) if name in wanted), None)


def _hits(found: Sequence[Hashable], wanted: Collection[Hashable], k: int) -> int:
    if k < 1:
        raise ValueError(f"k is {k!r}, allowed: 1 and more")
    _distinct(found)
    return sum(name in wanted for name in found[:k])


def _distinct(found: Sequence[Hashable]) -> None:
    if len(set(found)) != len(found):
        raise ValueError("a result is listed twice; each document has one rank")
