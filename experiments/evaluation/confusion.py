"""Which intent was taken for which."""

from collections.abc import Sequence

import numpy as np

from experiments.evaluation.metrics.classification import per_class
from experiments.evaluation.predictions import Prediction
from experiments.evaluation.report import Confusion

NO_INTENT = "(none)"
"""Column of answers without a valid intent."""


def confusion_of(predictions: Sequence[Prediction], intents: Sequence[str]) -> Confusion:
    """Count right intents against predicted ones, over items that have a right one."""
    judged = [p for p in predictions if p.intent is not None]
    seen = {p.intent for p in judged} | {p.predicted for p in judged}
    labels = [name for name in intents if name in seen] + [NO_INTENT]
    index = {name: i for i, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for p in judged:
        counts[index[p.intent or NO_INTENT], index[p.predicted or NO_INTENT]] += 1
    return Confusion(
        labels=tuple(labels), counts=tuple(tuple(int(n) for n in row) for row in counts)
    )


def macro_f1(confusion: Confusion) -> float | None:
    """Return the mean F1 of the intents that were asked, None if none was."""
    scores = [c.f1 for c in per_class(np.array(confusion.counts)) if c.support]
    return float(np.mean(scores)) if scores else None
