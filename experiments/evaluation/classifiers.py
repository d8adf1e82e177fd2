"""Simpler classifiers of messages: TF-IDF with a linear SVM or with logistic regression.

An adapter to scikit-learn. The SVM is the one of `carril eval prior`.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from experiments.evaluation.errors import MissingExtra
from experiments.evaluation.labelled_texts import LabelledTexts

ClassifierKind = Literal["svm", "logreg"]
_SEED = 42


class Classifier(Protocol):
    """What has learnt to tell intents apart."""

    name: str
    """In reports."""
    n_trained: int
    """Messages that it has learnt from."""

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the likeliest intent of each message."""

    def best(self, text: str) -> tuple[str, float]:
        """Return the likeliest intent of a message, and its probability."""


def fit_classifier(kind: ClassifierKind, data: LabelledTexts) -> Classifier:
    """Fit a classifier; the same data gives the same one.

    Raises:
        BadInput: If the messages have too little in common to learn from.
        MissingExtra: If scikit-learn is not installed.
    """
    return _Svm(data) if kind == "svm" else _LogisticRegression(data)


class _Svm:
    name = "tfidf_svm"

    def __init__(self, data: LabelledTexts) -> None:
        from experiments.intent_prior.fit import fit_table
        from experiments.intent_prior.prior import IntentPrior

        # Its probabilities have no temperature: that takes messages which are not learnt from.
        self._prior = IntentPrior(fit_table(data))
        self.n_trained = len(data.texts)

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self._prior.labels[int(np.argmax(self._prior.scores(text)))] for text in texts]

    def best(self, text: str) -> tuple[str, float]:
        logs = self._prior.log_probabilities(text)
        label = max(logs, key=logs.__getitem__)
        return label, float(np.exp(logs[label]))


class _LogisticRegression:
    name = "tfidf_logreg"

    def __init__(self, data: LabelledTexts) -> None:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline, make_union
        except ImportError as err:
            raise MissingExtra("The TF-IDF classifier", "evaluation") from err
        # Single precision and a loose stop: half the time, the same answers.
        common = {"sublinear_tf": True, "dtype": np.float32}
        words = TfidfVectorizer(ngram_range=(1, 2), strip_accents="unicode", **common)
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, **common)
        classifier = LogisticRegression(C=10.0, tol=1e-3, max_iter=200, random_state=_SEED)
        self._model = make_pipeline(make_union(words, characters), classifier)
        self._model.fit(data.texts, data.labels)
        self.n_trained = len(data.texts)

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [str(label) for label in self._model.predict(texts)]

    def best(self, text: str) -> tuple[str, float]:
        chances = self._model.predict_proba([text])[0]
        best = int(np.argmax(chances))
        return str(self._model.classes_[best]), float(chances[best])
