"""Simpler classifiers on the same items: linear ones over TF-IDF, and the majority class.

A fine-tuned model that does not beat these is not worth its weight.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from experiments.evaluation.classifiers import Classifier, ClassifierKind, fit_classifier
from experiments.evaluation.items import SLANG_REGISTER, Item, Suite
from experiments.evaluation.labelled_texts import read_training_texts
from experiments.evaluation.metrics.classification import classification_report
from experiments.evaluation.rates import rate
from experiments.evaluation.report import BaselineResult, TargetInfo
from experiments.evaluation.target import Reply

MAJORITY = "majority"


class Baselines:
    """The classifiers that one training file makes, each fitted when it is first asked for.

    Args:
        train: `train.jsonl` of a dataset, or what `carril data messages` writes.

    Raises:
        BadInput: If the file cannot be used.
    """

    def __init__(self, train: Path) -> None:
        self._data = read_training_texts(train)
        self._fitted: dict[ClassifierKind, Classifier] = {}

    @property
    def sha256(self) -> str:
        """Of the training file."""
        return self._data.sha256

    @property
    def n_messages(self) -> int:
        """In the training file."""
        return len(self._data.texts)

    def classifier(self, kind: ClassifierKind) -> Classifier:
        """Return a fitted classifier.

        Raises:
            BadInput: If nothing can be learnt from the file.
            MissingExtra: If scikit-learn is not installed.
        """
        if kind not in self._fitted:
            self._fitted[kind] = fit_classifier(kind, self._data)
        return self._fitted[kind]

    def measure(self, suites: Sequence[Suite]) -> tuple[BaselineResult, ...]:
        """Measure all classifiers, and the majority class, on every item that has an intent.

        Raises:
            BadInput: If nothing can be learnt from the file.
            MissingExtra: If scikit-learn is not installed.
        """
        items = [item for suite in suites for item in suite.items if item.intent is not None]
        if not items:
            return ()
        texts = [item.last_user_text for item in items]
        rows = []
        for kind in get_args(ClassifierKind):
            model = self.classifier(kind)
            rows.append(self._result(model.name, items, model.predict(texts), model.n_trained))
        majority = Counter(self._data.labels).most_common(1)[0][0]
        answers = [majority] * len(items)
        return (*rows, self._result(MAJORITY, items, answers, self.n_messages))

    def _result(
        self, name: str, items: Sequence[Item], predicted: Sequence[str], n_trained: int
    ) -> BaselineResult:
        truth = [item.intent or "" for item in items]
        right = [t == p for t, p in zip(truth, predicted, strict=True)]
        slang = [
            ok
            for item, ok in zip(items, right, strict=True)
            if item.speech_register == SLANG_REGISTER
        ]
        asked = classification_report(truth, predicted)
        scores = [counts.f1 for label, counts in asked.by_class.items() if label in set(truth)]
        return BaselineResult(
            name=name,
            accuracy=rate(right),
            slang_accuracy=rate(slang),
            macro_f1=float(np.mean(scores)),
            trained_on=self.sha256,
            n_trained=n_trained,
        )


class BaselineTarget:
    """A classifier as a target, so that it is judged item by item like a model.

    Its answer is the intent in an otherwise empty answer.

    Args:
        baselines: What it is one of.
        kind: Which one.

    Raises:
        BadInput: If nothing can be learnt from the training file.
        MissingExtra: If scikit-learn is not installed.
    """

    workers = 1

    def __init__(self, baselines: Baselines, kind: ClassifierKind) -> None:
        self._model = baselines.classifier(kind)
        self._version = baselines.sha256[:12]

    def answer(self, item: Item) -> Reply:
        """Classify the last message."""
        started = time.monotonic()
        intent, probability = self._model.best(item.last_user_text)
        answer = {
            "intent": intent,
            "confidence": round(probability, 2),
            "response": "",
            "leadSignals": dict.fromkeys(
                ("financing", "tradeIn", "testDrive", "contactProvided"), False
            )
            | {"urgency": "none"},
            "handoff": False,
            "quickReplies": [],
        }
        return Reply(
            text=json.dumps(answer, ensure_ascii=False),
            finished=True,
            probability=probability,
            latency_s=time.monotonic() - started,
        )

    def info(self) -> TargetInfo:
        """Say what was measured; the version is of the training file."""
        return TargetInfo(
            kind="baseline", name=self._model.name, version=self._version, grammar=True
        )

    def close(self) -> None:
        """Nothing is held."""
