"""Groups near-duplicate phrases, so that a split never parts them."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import sparse

NEAR_DUPLICATE_JACCARD = 0.7
"""Share of common character 4-grams from which two phrases count as one family."""

_SHINGLE = 4
_BLOCK = 4096
"""Phrases compared with all others at a time; bounds memory."""
_COMMON = 4
"""Rare shingles that two phrases must share before all of theirs are compared. One is enough for
the proof; each more lets fewer pairs through and makes the list to look through longer."""
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
    `(1 - threshold)` share of shingles of each must have one in common, that and `n` more of them
    must have `n + 1` (prefix filter; Chaudhuri, Ganti and Kaushik 2006, "A primitive operator for
    similarity joins in data cleaning"; of several: Wang, Li and Feng 2012, "Can we beat the prefix
    filtering?").

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
    owned = [(shingles(t), owner) for owner, forms in enumerate(phrases) for t in set(forms)]
    owned.sort(key=lambda item: len(item[0]))
    found = [some for some, _ in owned]
    frequency = Counter(shingle for some in found for shingle in some)
    rank = {s: i for i, (s, _) in enumerate(sorted(frequency.items(), key=_rarest_first))}
    rows = [sorted(rank[s] for s in some) for some in found]
    sizes = np.array([len(row) for row in rows])
    least = np.array([_ceil(threshold * len(row)) for row in rows])
    prefixes = [row[: len(row) - n + _COMMON] for row, n in zip(rows, least.tolist(), strict=True)]
    whole, rare = _incidence(rows, len(rank)), _incidence(prefixes, len(rank))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(rows), _BLOCK):
        block = rare[start : start + _BLOCK]
        # By size: what comes before was compared already, and what is too large is not alike.
        end = int(np.searchsorted(sizes * threshold, sizes[start : start + _BLOCK][-1], "right"))
        candidates = (block @ rare[start:end].T).tocoo()
        first, second = candidates.row + start, candidates.col + start
        chosen = (first < second) & (sizes[first] >= threshold * sizes[second])
        chosen &= candidates.data >= np.minimum(least[second], _COMMON)
        first, second = first[chosen], second[chosen]
        common = np.asarray(whole[first].multiply(whole[second]).sum(axis=1)).ravel()
        alike = common >= threshold * (sizes[first] + sizes[second] - common)
        for one, other in zip(first[alike].tolist(), second[alike].tolist(), strict=True):
            owners = owned[one][1], owned[other][1]
            if owners[0] != owners[1]:
                pairs.add((min(owners), max(owners)))
    return sorted(pairs)


def _incidence(rows: Sequence[Sequence[int]], width: int) -> sparse.csr_matrix:
    """Return the rows of column numbers as a 0/1 matrix, (n_rows, width) int32."""
    columns = np.array([column for row in rows for column in row], dtype=np.int32)
    starts = np.cumsum([0, *(len(row) for row in rows)])
    ones = np.ones(len(columns), dtype=np.int32)
    return sparse.csr_matrix((ones, columns, starts), shape=(len(rows), width))


def _rarest_first(item: tuple[str, int]) -> tuple[int, str]:
    return item[1], item[0]


def _root(parent: list[int], at: int) -> int:
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = parent[at]
    return at


def _ceil(value: float) -> int:
    return -int(-value // 1)
