"""Against scikit-learn where it is installed, else tables worked out by hand."""

import json

import numpy as np
import pytest

from experiments.evaluation.errors import BadInput
from experiments.evaluation.metrics.classification import classification_report
from experiments.evaluation.metrics.cross_validation import group_folds
from experiments.evaluation.metrics.document import figures_of
from experiments.evaluation.metrics.ranking import dcg, mean_reciprocal_rank, ndcg
from experiments.evaluation.metrics.regression import regression_errors
from experiments.evaluation.metrics.retrieval import (
    average_precision,
    first_hit,
    precision_at,
    recall_at,
)
from experiments.evaluation.metrics.text import answer_lengths, mean_cosine


@pytest.mark.parametrize("seed", range(5))
def test_classification_equals_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = [f"c{i}" for i in rng.integers(0, 5, 200)]
    predicted = [t if rng.uniform() < 0.7 else f"c{rng.integers(0, 6)}" for t in truth]
    found = classification_report(truth, predicted)
    labels = list(found.by_class)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    for name in ("macro", "weighted"):
        expected = metrics.precision_recall_fscore_support(
            truth, predicted, average=name, zero_division=0
        )[:3]
        assert tuple(getattr(found, name)) == pytest.approx(expected)
    cells = metrics.multilabel_confusion_matrix(truth, predicted, labels=labels)
    for label, ((tn, fp), (fn, tp)) in zip(labels, cells, strict=True):
        assert tuple(found.by_class[label]) == (tp, fp, tn, fn)
        assert found.by_class[label].specificity == pytest.approx(tn / (tn + fp))


def test_classification_by_hand():
    found = classification_report(["a", "a", "b", "b", "b"], ["a", "b", "b", "b", "a"])
    a = found.by_class["a"]
    assert tuple(a) == (1, 1, 2, 1)
    assert (a.precision, a.recall, a.f1) == (0.5, 0.5, 0.5)
    assert a.specificity == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(3 / 5)


def test_a_class_never_predicted_has_precision_zero():
    found = classification_report(["a", "b"], ["a", "a"])
    assert found.by_class["b"].precision == 0.0


@pytest.mark.parametrize("k", [None, 1, 3, 10])
def test_ndcg_equals_scikit_learn(k):
    metrics = pytest.importorskip("sklearn.metrics")
    gains = [3.0, 2.0, 3.0, 0.0, 1.0, 2.0]
    scores = [[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]
    assert ndcg(gains, k=k) == pytest.approx(metrics.ndcg_score([gains], scores, k=k))
    assert dcg(gains, k=k) == pytest.approx(metrics.dcg_score([gains], scores, k=k))


def test_ranking_by_hand():
    assert dcg([3, 2]) == pytest.approx(3 / 1 + 2 / np.log2(3))
    assert ndcg([0, 0]) is None
    assert mean_reciprocal_rank([1, 2, None, 4]) == pytest.approx((1 + 0.5 + 0 + 0.25) / 4)
    with pytest.raises(ValueError, match="0"):
        mean_reciprocal_rank([0])


def test_regression_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    truth = rng.normal(size=50)
    predicted = truth + rng.normal(scale=0.3, size=50)
    found = regression_errors(list(truth), list(predicted))
    assert found.mse == pytest.approx(metrics.mean_squared_error(truth, predicted))
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(truth, predicted))
    assert found.mae == pytest.approx(metrics.mean_absolute_error(truth, predicted))
    assert found.r2 == pytest.approx(metrics.r2_score(truth, predicted))


def test_regression_by_hand():
    found = regression_errors([1, 2, 3], [1, 2, 6])
    assert (found.mse, found.mae, found.r2) == (3.0, 1.0, 1 - 9 / 2)
    assert regression_errors([2, 2], [2, 3]).r2 is None


def test_retrieval_by_hand():
    found, wanted = ["x", "a", "y", "b"], {"a", "b", "c"}
    assert precision_at(found, wanted, 2) == 0.5
    assert recall_at(found, wanted, 4) == pytest.approx(2 / 3)
    assert average_precision(found, wanted) == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert first_hit(found, wanted) == 2
    assert first_hit(found, {"z"}) is None
    assert recall_at(found, set(), 3) is None


def test_average_precision_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    expected = metrics.average_precision_score([0, 1, 0, 1, 1], [5, 4, 3, 2, 1])
    assert average_precision(list("xaybc"), set("abc")) == pytest.approx(expected)


def test_mean_cosine_equals_scipy():
    from scipy.spatial.distance import cosine

    a = [[1.0, 2.0, 0.5], [0.0, 1.0, -1.0]]
    b = [[0.5, 1.0, 2.0], [1.0, 1.0, 1.0]]
    expected = np.mean([1 - cosine(x, y) for x, y in zip(a, b, strict=True)])
    assert mean_cosine(a, b) == pytest.approx(expected)
    with pytest.raises(ValueError, match="row 1 is zero"):
        mean_cosine([[1.0], [0.0]], [[1.0], [1.0]])


def test_answer_lengths_count_words():
    lengths = answer_lengths(["¿Qué tú busca?", "Dime.", "una dos tres cuatro cinco"])
    assert lengths is not None
    assert (lengths.n, lengths.mean, lengths.p50, lengths.longest) == (3, 3.0, 3.0, 5)
    assert answer_lengths([]) is None


def test_no_group_is_on_both_sides_of_a_fold():
    groups = [f"g{i % 17}" for i in range(200)]
    folds = group_folds(groups, 5, seed=1)
    assert sorted(i for fold in folds for i in fold.test) == list(range(200))
    for fold in folds:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.test}
        assert 20 <= len(fold.test) <= 60


def test_folds_do_not_depend_on_the_order_of_items():
    groups = [f"g{i % 7}" for i in range(30)]
    together = {frozenset(groups[i] for i in f.test) for f in group_folds(groups, 3, seed=2)}
    turned = groups[::-1]
    assert together == {
        frozenset(turned[i] for i in f.test) for f in group_folds(turned, 3, seed=2)
    }


def test_more_folds_than_groups_are_refused():
    with pytest.raises(ValueError, match="3 folds of 2 groups"):
        group_folds(["a", "b", "a"], 3, seed=1)


@pytest.mark.parametrize(
    ("document", "key", "value"),
    [
        ({"kind": "classification", "truth": ["a", "b"], "predicted": ["a", "a"]}, "accuracy", 0.5),
        ({"kind": "regression", "truth": [1, 3], "predicted": [2, 3]}, "mse", 0.5),
        ({"kind": "embeddings", "first": [[1, 0]], "second": [[1, 0]]}, "mean_cosine", 1.0),
        ({"kind": "answers", "answers": ["a b", "c"]}, "mean", 1.5),
        (
            {"kind": "retrieval", "k": 2, "queries": [{"found": ["x", "a"], "wanted": {"a": 1}}]},
            "mrr",
            0.5,
        ),
    ],
)
def test_a_document_is_measured_by_its_kind(tmp_path, document, key, value):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert figures_of(path)[key] == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "d.json"),
        ('{"kind": "bogus"}', "bogus"),
        ('{"kind": "regression", "truth": [1], "predicted": []}', "same number"),
    ],
)
def test_a_bad_document_is_refused(tmp_path, text, message):
    path = tmp_path / "d.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        figures_of(path)
