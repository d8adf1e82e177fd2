"""A simple classifier of phrases: a witness for labels that does not come from the model in doubt.

Softmax regression on hashed character n-grams weighted by inverse document frequency, trained by
AdaGrad in numpy, so that the loop needs neither torch nor scikit-learn.

References:
    Duchi, Hazan, Singer (2011), "Adaptive subgradient methods", JMLR 12, for the step sizes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from training.retrain.neighbours import grams

_N_EPOCHS = 15
_BATCH = 256
_RATE = 0.5
_MIN_DOCUMENTS = 2
"""Of an n-gram; what was seen once says nothing about other phrases."""
_SEED = 8

Floats = NDArray[np.float64]


class PhraseClassifier:
    """Predicts labels of normalised phrases.

    Args:
        texts: Phrases to learn from.
        labels: The label of each.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        self.labels = tuple(sorted(set(labels)))
        index = {label: at for at, label in enumerate(self.labels)}
        wanted = np.array([index[label] for label in labels])
        counts = grams(texts)
        documents = np.asarray((counts > 0).sum(axis=0)).ravel()
        self._kept = np.flatnonzero(documents >= min(_MIN_DOCUMENTS, len(texts)))
        self._idf = np.log((1.0 + len(texts)) / (1.0 + documents[self._kept])) + 1.0
        self._weights = _fit(self._features(counts), wanted, len(self.labels))

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Return the probability of every label, in the order of `labels`, (n_texts, n_labels)."""
        return _softmax(self._features(grams(texts)) @ self._weights)

    def _features(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        kept = sparse.csr_matrix(counts[:, self._kept], copy=True)
        kept.data[:] = 1.0
        weighted = kept @ sparse.diags(self._idf)
        lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return sparse.csr_matrix(sparse.diags(1.0 / np.maximum(lengths, 1e-12)) @ weighted)


def _fit(features: sparse.csr_matrix, wanted: NDArray[np.int64], n_labels: int) -> Floats:
    weights = np.zeros((features.shape[1], n_labels))
    squares = np.full_like(weights, 1e-8)
    generator = np.random.default_rng(_SEED)
    for _ in range(_N_EPOCHS):
        order = generator.permutation(len(wanted))
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = features[chosen]
            excess = _softmax(batch @ weights)
            excess[np.arange(len(chosen)), wanted[chosen]] -= 1.0
            gradient = batch.T @ excess / len(chosen)
            squares += gradient * gradient
            weights -= _RATE * gradient / np.sqrt(squares)
    return weights


def _softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Floats = raised / raised.sum(axis=1, keepdims=True)
    return result
