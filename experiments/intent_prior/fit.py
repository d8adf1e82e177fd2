"""Fitting a prior to labelled messages: a linear SVM over TF-IDF. The adapter to scikit-learn."""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.evaluation.errors import BadInput, MissingExtra
from experiments.evaluation.labelled_texts import LabelledTexts
from experiments.intent_prior.features import features_of
from experiments.intent_prior.prior import IntentPrior, inverse_frequencies
from experiments.intent_prior.table import PriorTable

_MIN_MESSAGES = (2, 3, 2, 3, 4)
"""An n-gram of each kind, as in `Features`, counts from so many messages on: what occurs once says
whose it was, not what it means."""
_MAX_FEATURES = 600_000
"""Beyond them the rarest are left out, which bounds the file at about 12 MB."""
_C = 0.2
"""On `dev` it is as good as 0.5, within 0.4 points."""
_TOLERANCE = 1e-2
_MAX_ITERATIONS = 300
_TEMPERATURES = (0.01, 10.0)
"""Where the best one is looked for: scores are distances of about 1."""


class FittedPrior(NamedTuple):
    """A prior, and how good it is on messages that it was not fitted to."""

    table: PriorTable
    n_tune: int
    n_right: int
    log_loss: float
    """Mean, in nats, at the temperature that was chosen on the same messages."""


def fit_prior(train: LabelledTexts, tune: LabelledTexts) -> FittedPrior:
    """Fit weights to one file and the temperature to another. The same files give the same table.

    Args:
        train: What it learns from.
        tune: Messages of other phrases, which the temperature is fitted to.

    Raises:
        BadInput: If `tune` has an intent that `train` has not, or nothing occurs often enough.
        MissingExtra: If scikit-learn is not installed.
    """
    if strange := sorted(set(tune.labels) - set(train.labels)):
        raise BadInput(f"the file to tune on has intents that nothing is trained on: {strange}")
    table = fit_table(train)
    prior = IntentPrior(table)
    scores = np.stack([prior.scores(text) for text in tune.texts]).astype(np.float64)
    truth = np.array([table.labels.index(label) for label in tune.labels])
    temperature, loss = _best_temperature(scores, truth)
    return FittedPrior(
        table=replace(table, temperature=temperature),
        n_tune=len(truth),
        n_right=int((scores.argmax(axis=1) == truth).sum()),
        log_loss=loss,
    )


def fit_table(train: LabelledTexts) -> PriorTable:
    """Fit the weights alone, with a temperature of 1.

    Raises:
        BadInput: If nothing occurs often enough.
        MissingExtra: If scikit-learn is not installed.
    """
    try:
        from sklearn.svm import LinearSVC
    except ImportError as err:
        raise MissingExtra("Fitting a linear SVM", "evaluation") from err
    kinds = _count(train.texts)
    hashes, messages_with = _vocabulary(kinds)
    if not len(hashes):
        raise BadInput(
            f"{len(train.texts)} messages share no words: nothing can be learnt from them",
            "carril data messages writes enough",
        )
    idf = inverse_frequencies(messages_with, len(train.texts))
    matrix = _matrix(kinds, len(train.texts), hashes, idf)
    del kinds  # a gigabyte, as is the solver's own copy
    labels, truth = np.unique(train.labels, return_inverse=True)
    classifier = LinearSVC(C=_C, tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, random_state=0)
    classifier.fit(matrix, truth)
    weights, intercepts = classifier.coef_, classifier.intercept_
    if len(labels) == 2:  # scikit-learn keeps the second one's border only
        weights, intercepts = np.vstack([-weights, weights]), np.r_[-intercepts, intercepts]
    scales = np.abs(weights).max(axis=1) / np.iinfo(np.int8).max
    return PriorTable(
        labels=tuple(labels.tolist()),
        hashes=hashes,
        messages_with=messages_with,
        weights=np.rint(weights / np.maximum(scales, 1e-12)[:, None]).T.astype(np.int8),
        scales=scales.astype(np.float32),
        intercepts=np.asarray(intercepts, dtype=np.float32),
        temperature=1.0,
        n_messages=len(train.texts),
        training_sha256=train.sha256,
    )


class _Kind(NamedTuple):
    """The n-grams of one kind in all messages, one after the other."""

    hashes: NDArray[np.uint32]
    times: NDArray[np.float32]
    messages: NDArray[np.int32]
    """Which message each is in."""


def _count(texts: Sequence[str]) -> list[_Kind]:
    # Arrays of machine numbers: as Python objects, 150,000 messages would take gigabytes.
    found = [(array("I"), array("f"), array("I")) for _ in _MIN_MESSAGES]
    for text in texts:
        for counts, (hashes, times, lengths) in zip(features_of(text), found, strict=True):
            hashes.extend(counts.keys())
            times.extend(counts.values())
            lengths.append(len(counts))
    rows = np.arange(len(texts), dtype=np.int32)
    return [
        _Kind(
            np.array(hashes, dtype=np.uint32),
            np.array(times, dtype=np.float32),
            np.repeat(rows, np.array(lengths, dtype=np.int64)),
        )
        for hashes, times, lengths in found
    ]


def _vocabulary(kinds: Sequence[_Kind]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the n-grams that count, ascending, and in how many messages each is."""
    hashes, counts = [], []
    for kind, least in zip(kinds, _MIN_MESSAGES, strict=True):
        known, times = np.unique(kind.hashes, return_counts=True)
        hashes.append(known[times >= least])
        counts.append(times[times >= least].astype(np.uint32))
    every, messages_with = np.concatenate(hashes), np.concatenate(counts)
    # Some 50 of a million are hashes of two kinds at once, and say nothing certain.
    every, first, kinds_with = np.unique(every, return_index=True, return_counts=True)
    alone = kinds_with == 1
    every, messages_with = every[alone], messages_with[first[alone]]
    kept = np.sort(np.lexsort((every, -messages_with.astype(np.int64)))[:_MAX_FEATURES])
    return every[kept], messages_with[kept]


def _matrix(
    kinds: Sequence[_Kind], n_rows: int, hashes: NDArray[np.uint32], idf: NDArray[np.float32]
) -> Any:  # Any: scipy's sparse matrices have no types
    """Return the messages as rows of a sparse matrix, each kind of a row of length 1."""
    from scipy.sparse import csr_matrix

    shape = (n_rows, len(hashes))
    matrix: Any = csr_matrix(shape)
    for kind in kinds:
        at = np.minimum(np.searchsorted(hashes, kind.hashes), len(hashes) - 1).astype(np.int32)
        known = hashes[at] == kind.hashes
        at, row = at[known], kind.messages[known]
        values = (1 + np.log(kind.times[known])) * idf[at]
        lengths = np.sqrt(np.bincount(row, weights=values * values, minlength=n_rows))
        matrix += csr_matrix((values / lengths[row], (row, at)), shape=shape)
    return matrix


def _best_temperature(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Return the temperature with the least log-loss, and that loss."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        logs = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(logs[rows, truth].mean())

    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x)), float(found.fun)
