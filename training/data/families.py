"""Groups near-duplicate phrases, so that a split never parts them."""

import re
from collections import Counter
from collections.abc import Sequence

NEAR_DUPLICATE_JACCARD = 0.7
"""Share of common character 4-grams from which two phrases count as one family."""

_SHINGLE = 4
_SLOT = re.compile(r"\{\w+\}")


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets, in 0..1; two empty sets are alike."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def shingles(text: str) -> frozenset[str]:
    """Return the character 4-grams of a normalised phrase; every slot counts as one character."""
    padded = f" {_SLOT.sub('§', text)} "
    return frozenset(padded[i : i + _SHINGLE] for i in range(max(1, len(padded) - _SHINGLE + 1)))


def group_near_duplicates(
    phrases: Sequence[Sequence[str]], *, threshold: float = NEAR_DUPLICATE_JACCARD
) -> list[int]:
    """Return for each phrase the index of the first phrase of its group (union-find).

    Phrases are joined where any of their readings are at least `threshold` alike; groups are the
    connected components. The join is exact: of two sets that are that alike, the rarest
    `(1 - threshold)` share of shingles of each must have one in common (prefix filter; Chaudhuri,
    Ganti and Kaushik 2006, "A primitive operator for similarity joins in data cleaning").

    Args:
        phrases: The normalised readings of each phrase, at least one each.
        threshold: Least Jaccard similarity of the 4-gram sets, in (0, 1].
    """
    parent = list(range(len(phrases)))
    for first, second in similar_pairs(phrases, threshold=threshold):
        roots = sorted((_root(parent, first), _root(parent, second)))
        parent[roots[1]] = roots[0]
    return [_root(parent, i) for i in range(len(phrases))]


def similar_pairs(phrases: Sequence[Sequence[str]], *, threshold: float) -> list[tuple[int, int]]:
    """Return every pair of phrases with readings that are at least `threshold` alike.

    Args:
        phrases: The normalised readings of each phrase.
        threshold: Least Jaccard similarity of the 4-gram sets, in (0, 1].
    """
    texts = sorted({(text, owner) for owner, forms in enumerate(phrases) for text in forms})
    frequency = Counter(shingle for text, _ in texts for shingle in shingles(text))
    rank = {s: i for i, (s, _) in enumerate(sorted(frequency.items(), key=_rarest_first))}
    readings = [(frozenset(rank[s] for s in shingles(text)), owner) for text, owner in texts]
    readings.sort(key=lambda reading: len(reading[0]))
    index: dict[int, list[int]] = {}
    pairs: set[tuple[int, int]] = set()
    for at, (found, owner) in enumerate(readings):
        size = len(found)
        prefix = sorted(found)[: size - _ceil(threshold * size) + 1]
        smallest = threshold * size
        for other in {other for shingle in prefix for other in index.get(shingle, ())}:
            other_found, other_owner = readings[other]
            # Readings come by size: the earlier one is the smaller one.
            if len(other_found) < smallest or owner == other_owner:
                continue
            common = len(found & other_found)
            if common >= threshold * (size + len(other_found) - common):
                pairs.add((min(owner, other_owner), max(owner, other_owner)))
        for shingle in prefix:
            index.setdefault(shingle, []).append(at)
    return sorted(pairs)


def _rarest_first(item: tuple[str, int]) -> tuple[int, str]:
    return item[1], item[0]


def _root(parent: list[int], at: int) -> int:
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = parent[at]
    return at


def _ceil(value: float) -> int:
    return -int(-value // 1)
