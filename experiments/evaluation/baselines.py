"""Simpler classifiers on the same items: TF-IDF with logistic regression, and the majority class.

The adapter to scikit-learn. A fine-tuned model that does not beat these is not worth its weight.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.errors import BadInput, MissingExtra
from experiments.evaluation.items import SLANG_REGISTER, Item, Suite
from experiments.evaluation.metrics.classification import classification_report
from experiments.evaluation.profile import Profile
from experiments.evaluation.rates import rate
from experiments.evaluation.report import BaselineResult, TargetInfo
from experiments.evaluation.target import Reply

TFIDF = "tfidf_logreg"
MAJORITY = "majority"
_SEED = 42


class LabelledTexts(NamedTuple):
    """What the classifiers learn from."""

    texts: list[str]
    labels: list[str]
    sha256: str
    """Of the file."""


def read_training_texts(path: Path) -> LabelledTexts:
    """Read the last customer message and the intent of every conversation of a dataset file.

    Raises:
        BadInput: At the first line without both, or if fewer than two intents are in it.
    """
    texts, labels = [], []
    try:
        raw = path.read_bytes()
    except OSError as err:
        raise BadInput(f"Cannot read {str(path)!r}: {err.strerror}") from err
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            said = [m["content"] for m in record["messages"] if m["role"] == "user"]
            texts.append(str(said[-1]))
            labels.append(str(record["intent"]))
        except (ValueError, KeyError, IndexError, TypeError) as err:
            raise BadInput(f"{path}:{number}: no conversation with an intent: {err!r}") from err
    if len(set(labels)) < 2:
        raise BadInput(f"{path}: a classifier needs two intents; it has {sorted(set(labels))}")
    return LabelledTexts(texts, labels, hashlib.sha256(raw).hexdigest())


def measure_baselines(train: Path, suites: Sequence[Suite]) -> tuple[BaselineResult, ...]:
    """Train both classifiers and measure them on every item that has an intent.

    Raises:
        BadInput: If the training file cannot be used.
        MissingExtra: If scikit-learn is not installed.
    """
    data = read_training_texts(train)
    items = [item for suite in suites for item in suite.items if item.intent is not None]
    if not items:
        return ()
    model = _fit(data)
    majority = Counter(data.labels).most_common(1)[0][0]
    texts = [item.last_user_text for item in items]
    predicted = [str(label) for label in model.predict(texts)]
    return (
        _result(TFIDF, items, predicted, data.sha256),
        _result(MAJORITY, items, [majority] * len(items), data.sha256),
    )


class BaselineTarget:
    """The TF-IDF classifier as a target, so that it is judged item by item like a model.

    Its answer is the intent in an otherwise empty answer.

    Args:
        train: `train.jsonl` of a dataset.
        profile: What an answer must look like.

    Raises:
        BadInput: If the training file cannot be used.
        MissingExtra: If scikit-learn is not installed.
    """

    workers = 1

    def __init__(self, train: Path, profile: Profile) -> None:
        data = read_training_texts(train)
        self._model = _fit(data)
        self._version = data.sha256[:12]
        self._profile = profile

    def answer(self, item: Item) -> Reply:
        """Classify the last message."""
        started = time.monotonic()
        chances = self._model.predict_proba([item.last_user_text])[0]
        best = int(np.argmax(chances))
        answer = {
            "intent": str(self._model.classes_[best]),
            "confidence": round(float(chances[best]), 2),
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
            probability=float(chances[best]),
            latency_s=time.monotonic() - started,
        )

    def info(self) -> TargetInfo:
        """Say what was measured; the version is of the training file."""
        return TargetInfo(kind="baseline", name=TFIDF, version=self._version, grammar=True)

    def close(self) -> None:
        """Nothing is held."""


def _fit(data: LabelledTexts) -> Any:  # Any: scikit-learn has no types
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
    model = make_pipeline(make_union(words, characters), classifier)
    model.fit(data.texts, data.labels)
    return model


def _result(
    name: str, items: Sequence[Item], predicted: Sequence[str], sha256: str
) -> BaselineResult:
    truth = [item.intent or "" for item in items]
    right = [t == p for t, p in zip(truth, predicted, strict=True)]
    slang = [
        ok for item, ok in zip(items, right, strict=True) if item.speech_register == SLANG_REGISTER
    ]
    asked = classification_report(truth, predicted)
    scores = [counts.f1 for label, counts in asked.by_class.items() if label in set(truth)]
    return BaselineResult(
        name=name,
        accuracy=rate(right),
        slang_accuracy=rate(slang),
        macro_f1=float(np.mean(scores)),
        trained_on=sha256,
    )
