"""A second opinion on a label: what the most similar known phrases are labelled."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_N_FEATURES = 1 << 18
_GRAM_SIZES = (2, 3, 4)
_BLOCK = 256
"""Phrases compared at a time: a block against 12,000 phrases takes 25 MB."""


class Opinion(NamedTuple):
    """What the neighbours of a phrase say."""

    label: str
    share: float
    """Share of the similarity that speaks for the label, in 0..1."""
    similarity: float
    """Cosine with the nearest phrase of that label, in 0..1."""
    nearest: int
    """Index of that phrase."""


class Neighbours:
    """Labelled phrases, compared by the cosine of their weighted character n-grams.

    Args:
        texts: Normalised phrases.
        labels: The label of each.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        self._labels = np.asarray(labels)
        counts = grams(texts)
        seen = np.asarray((counts > 0).sum(axis=0)).ravel()
        self._weights = np.log((1.0 + len(texts)) / (1.0 + seen)) + 1.0
        self._matrix = self._weighted(counts).T.tocsr()

    def opinions(self, texts: Sequence[str], *, k: int = 15) -> list[Opinion]:
        """Return the vote of the `k` nearest phrases on each text, weighted by similarity.

        A phrase that is there many times votes once: repeating a phrase must not buy votes.
        """
        found: list[Opinion] = []
        for start in range(0, len(texts), _BLOCK):
            block = self._weighted(grams(texts[start : start + _BLOCK]))
            similarities = np.asarray((block @ self._matrix).todense())
            found += [self._vote(row, k) for row in similarities]
        return found

    def nearest_with(self, text: str, label: str) -> int | None:
        """Return the index of the most similar phrase with a label, None where there is none."""
        row = np.asarray((self._weighted(grams([text])) @ self._matrix).todense())[0]
        row = np.where(self._labels == label, row, -1.0)
        best = int(row.argmax())
        return best if row[best] >= 0 else None

    def _vote(self, row: NDArray[np.float64], k: int) -> Opinion:
        size = min(4 * k, len(row))
        order = np.argpartition(-row, size - 1)[:size]
        order = order[np.lexsort((order, -row[order]))]
        kept: list[int] = []
        taken: set[tuple[str, float]] = set()
        for index in order:
            key = (str(self._labels[index]), round(float(row[index]), 6))
            if key not in taken:
                taken.add(key)
                kept.append(int(index))
            if len(kept) == k:
                break
        votes: dict[str, float] = {}
        for index in kept:
            # Squared: fifteen distant phrases must not outvote one that is nearly the same.
            votes[str(self._labels[index])] = (
                votes.get(str(self._labels[index]), 0.0) + float(row[index]) ** 2
            )
        total = sum(votes.values())
        label = max(sorted(votes), key=lambda name: votes[name])
        nearest = next(index for index in kept if str(self._labels[index]) == label)
        share = votes[label] / total if total > 0 else 0.0
        return Opinion(label, share, float(row[nearest]), nearest)

    def _weighted(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        damped = counts.copy()
        damped.data = 1.0 + np.log(damped.data)
        weighted = damped @ sparse.diags(self._weights)
        lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        scale = sparse.diags(1.0 / np.maximum(lengths, 1e-12))
        return sparse.csr_matrix(scale @ weighted)


def grams(texts: Sequence[str]) -> sparse.csr_matrix:
    """Return counts of hashed character n-grams, one row a text."""
    columns: list[int] = []
    starts = [0]
    for text in texts:
        padded = f" {text} "
        columns += [
            zlib.crc32(padded[at : at + size].encode()) % _N_FEATURES
            for size in _GRAM_SIZES
            for at in range(len(padded) - size + 1)
        ]
        starts.append(len(columns))
    data = np.ones(len(columns))
    matrix = sparse.csr_matrix((data, columns, starts), shape=(len(texts), _N_FEATURES))
    matrix.sum_duplicates()
    return matrix
