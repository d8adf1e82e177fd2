"""Texts and their embeddings: length of answers, closeness of meanings."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Lengths(NamedTuple):
    """Length of answers in words."""

    n: int
    mean: float
    p50: float
    p95: float
    longest: int


def answer_lengths(answers: Sequence[str]) -> Lengths | None:
    """Return the lengths of answers, None if there is none."""
    if not answers:
        return None
    words = np.array([len(re.findall(r"\w+", answer)) for answer in answers])
    p50, p95 = (float(q) for q in np.percentile(words, [50, 95]))
    return Lengths(len(answers), float(words.mean()), p50, p95, int(words.max()))


def mean_cosine(first: ArrayLike, second: ArrayLike) -> float:
    """Return the mean cosine similarity of embeddings, pair by pair.

    Args:
        first: (n, d) float, at least one row.
        second: The same shape.

    Raises:
        ValueError: If the shapes differ or a row is zero, which has no direction.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(f"the shapes are {a.shape} and {b.shape}; both must be the same (n, d)")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if (norms == 0).any():
        raise ValueError(f"row {int(np.argmin(norms))} is zero and has no direction")
    return float(np.mean(np.sum(a * b, axis=1) / norms))
