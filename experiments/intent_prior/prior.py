"""How likely each intent is by a message's n-grams: in numpy, in two tenths of a millisecond."""

import numpy as np
from numpy.typing import NDArray

from experiments.intent_prior.features import features_of
from experiments.intent_prior.table import KINDS, PriorTable


class IntentPrior:
    """A linear classifier over TF-IDF, ready to score. Safe to use from several threads.

    Args:
        table: What it has learnt.
    """

    def __init__(self, table: PriorTable) -> None:
        self.table = table
        self._idf = inverse_frequencies(table.messages_with, table.n_messages)

    @property
    def labels(self) -> tuple[str, ...]:
        """The intents that it tells apart."""
        return self.table.labels

    def scores(self, message: str) -> NDArray[np.float32]:
        """Return the distance of a message from each intent's border, (n_labels,)."""
        table = self.table
        units = np.zeros(len(table.labels), dtype=np.float32)
        for counts in features_of(message)[: KINDS[table.format]]:
            if not counts:
                continue
            hashes = np.fromiter(counts.keys(), dtype=np.uint32, count=len(counts))
            times = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
            at = np.minimum(np.searchsorted(table.hashes, hashes), len(table.hashes) - 1)
            known = table.hashes[at] == hashes
            at = at[known]
            if not len(at):
                continue
            values = (1 + np.log(times[known])) * self._idf[at]
            values /= np.sqrt(values @ values)
            units += values @ table.weights[at].astype(np.float32)
        scores: NDArray[np.float32] = units * table.scales + table.intercepts
        return scores

    def log_probabilities(self, message: str) -> dict[str, float]:
        """Return the logarithm of each intent's probability, by its label."""
        logits = self.scores(message).astype(np.float64) / self.table.temperature
        peak = logits.max()
        values = logits - (peak + np.log(np.exp(logits - peak).sum()))
        return dict(zip(self.table.labels, values.tolist(), strict=True))


def inverse_frequencies(messages_with: NDArray[np.uint32], n_messages: int) -> NDArray[np.float32]:
    """Return scikit-learn's smoothed inverse document frequency of each feature.

    Args:
        messages_with: In how many messages each occurs.
        n_messages: Of how many.
    """
    ratio = (1 + n_messages) / (1 + messages_with.astype(np.float64))
    return (np.log(ratio) + 1).astype(np.float32)
