"""Classification: accuracy, precision, recall, F1 and the four cells behind them.

A ratio whose denominator is zero is 0, as scikit-learn gives it with `zero_division=0`.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class BinaryCounts(NamedTuple):
    """The four cells of one class against the rest."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def support(self) -> int:
        """Items that are of the class."""
        return self.true_positives + self.false_negatives

    @property
    def accuracy(self) -> float:
        """Share of right answers, for or against the class."""
        return _ratio(self.true_positives + self.true_negatives, sum(self))

    @property
    def precision(self) -> float:
        """Share of hits among what was called the class."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of hits among what is of the class; sensitivity."""
        return _ratio(self.true_positives, self.support)

    @property
    def specificity(self) -> float:
        """Share of right rejections among what is not of the class."""
        return _ratio(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        twice = 2 * self.true_positives
        return _ratio(twice, twice + self.false_positives + self.false_negatives)


class Averages(NamedTuple):
    """Precision, recall and F1 over the classes that occur."""

    precision: float
    recall: float
    f1: float


class ClassificationReport(NamedTuple):
    """All figures of one classifier."""

    accuracy: float
    macro: Averages
    """Every class counts alike."""
    weighted: Averages
    """Classes count by their items."""
    by_class: dict[Hashable, BinaryCounts]
    matrix: NDArray[np.int64]
    """Rows: truth, columns: predictions, in the order of `by_class`."""


def classification_report(
    truth: Sequence[Hashable], predicted: Sequence[Hashable]
) -> ClassificationReport:
    """Compare predictions with the truth.

    Args:
        truth: Right label of every item, at least one.
        predicted: Predicted labels, of the same length.

    Raises:
        ValueError: If the lengths differ or nothing is given.
    """
    if len(truth) != len(predicted) or not truth:
        raise ValueError(
            f"truth has {len(truth)} labels and predicted {len(predicted)}; "
            "both need the same number, at least one"
        )
    labels = sorted(set(truth) | set(predicted), key=str)
    index = {label: i for i, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for right, given in zip(truth, predicted, strict=True):
        matrix[index[right], index[given]] += 1
    counts = per_class(matrix)
    weights = np.array([c.support for c in counts], dtype=float)
    table = np.array([(c.precision, c.recall, c.f1) for c in counts])
    return ClassificationReport(
        accuracy=float(np.trace(matrix) / matrix.sum()),
        macro=Averages(*(float(v) for v in table.mean(axis=0))),
        weighted=Averages(*(float(v) for v in np.average(table, axis=0, weights=weights))),
        by_class=dict(zip(labels, counts, strict=True)),
        matrix=matrix,
    )


def per_class(matrix: NDArray[np.int64]) -> list[BinaryCounts]:
    """Return the four cells of every class of a square confusion matrix."""
    total = int(matrix.sum())
    cells = []
    for i in range(len(matrix)):
        hits = int(matrix[i, i])
        called, real = int(matrix[:, i].sum()), int(matrix[i, :].sum())
        cells.append(BinaryCounts(hits, called - hits, total - called - real + hits, real - hits))
    return cells


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0
