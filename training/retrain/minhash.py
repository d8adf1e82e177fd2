"""Near-duplicates by MinHash: texts whose sets of shingles overlap by a share or more.

The probability that two sets have the same minimum under a random hash is their Jaccard similarity
(Broder 1997, "On the resemblance and containment of documents"). 128 hashes in 32 bands of 4 make
candidates of two texts with similarity 0.8 in all but 4e-8 of the cases, and the candidates are
then compared exactly, so there are no false pairs.
"""

import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR_DUPLICATE_JACCARD = 0.8
"""Similarity from which two texts count as one; the usual value for deduplication."""

_N_BANDS = 32
_N_ROWS = 4
_SHINGLE = 4
_PRIME = np.uint64(4_294_967_311)
"""Smallest prime above 2^32; with 32-bit factors, a x + b stays within 64 bits."""
_SEED = 1997


def near_pairs(
    texts: Sequence[str], *, threshold: float = NEAR_DUPLICATE_JACCARD
) -> list[tuple[int, int]]:
    """Return the pairs of texts, by index, that are at least `threshold` alike.

    Args:
        texts: Normalised texts.
        threshold: Least Jaccard similarity of their character 4-grams; from 0.6 on nearly nothing
            is missed.
    """
    sets = [shingles(text) for text in texts]
    candidates: set[tuple[int, int]] = set()
    by_set: dict[frozenset[int], int] = {}
    firsts: list[int] = []
    for index, found in enumerate(sets):
        # Equal sets are joined to their first and left out: copies would make n^2 candidates.
        first = by_set.setdefault(found, index)
        if first == index:
            firsts.append(index)
        else:
            candidates.add((first, index))
    marks = signatures([sets[index] for index in firsts])
    for band in range(_N_BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        part = np.ascontiguousarray(marks[:, band * _N_ROWS : (band + 1) * _N_ROWS])
        for row, index in zip(part, firsts, strict=True):
            buckets[row.tobytes()].append(index)
        for members in buckets.values():
            candidates.update(
                (one, other) for at, one in enumerate(members) for other in members[at + 1 :]
            )
    return sorted(pair for pair in candidates if jaccard(sets[pair[0]], sets[pair[1]]) >= threshold)


def signatures(sets: Sequence[frozenset[int]]) -> NDArray[np.uint64]:
    """Return the MinHash signature of each set, (n_sets, 128)."""
    generator = np.random.default_rng(_SEED)
    shape = _N_BANDS * _N_ROWS
    a = generator.integers(1, 1 << 32, shape, dtype=np.uint64)[:, None]
    b = generator.integers(0, 1 << 32, shape, dtype=np.uint64)[:, None]
    marks = np.empty((len(sets), shape), dtype=np.uint64)
    for row, found in enumerate(sets):
        values = np.fromiter(found, dtype=np.uint64, count=len(found))[None, :]
        marks[row] = ((a * values + b) % _PRIME).min(axis=1)
    return marks


def shingles(text: str) -> frozenset[int]:
    """Return the hashed character 4-grams of a text; never empty."""
    padded = f" {text} "
    last = max(1, len(padded) - _SHINGLE + 1)
    return frozenset(zlib.crc32(padded[at : at + _SHINGLE].encode()) for at in range(last))


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    """Return the Jaccard similarity of two sets, in 0..1."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


class Groups:
    """Union-find over indices.

    Args:
        n: Number of indices.
    """

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def join(self, one: int, other: int) -> None:
        """Put two indices into one group; the smaller root stays."""
        roots = sorted((self.root(one), self.root(other)))
        self._parent[roots[1]] = roots[0]

    def join_equal(self, keys: Sequence[str]) -> None:
        """Put indices with equal keys into one group."""
        first: dict[str, int] = {}
        for index, key in enumerate(keys):
            self.join(first.setdefault(key, index), index)

    def root(self, at: int) -> int:
        """Return the smallest index of the group."""
        while self._parent[at] != at:
            self._parent[at] = self._parent[self._parent[at]]
            at = self._parent[at]
        return at
