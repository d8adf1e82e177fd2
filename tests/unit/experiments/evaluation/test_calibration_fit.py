"""Fits recover what simulated answers were made with; bounds are those of scipy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from experiments.evaluation.calibration_fit import Answered, CannotFit, choose_threshold, fit
from experiments.evaluation.intent_calibration import line, temper

LABELS = ("a", "b", "c", "out")


def answers(n: int = 1_500, *, sharpness: float = 1.0, seed: int = 3) -> list[Answered]:
    """Answers of a model whose probabilities, to the power of `1 / sharpness`, are exact."""
    rng = np.random.default_rng(seed)
    found = []
    for honest in rng.dirichlet([0.6] * len(LABELS), size=n):
        told = honest**sharpness / (honest**sharpness).sum()
        probabilities = dict(zip(LABELS, map(float, told), strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        found.append(Answered(probabilities, best, str(rng.choice(LABELS, p=honest))))
    return found


def test_the_fit_undoes_overconfidence():
    found = fit(answers(sharpness=2.0))
    assert found.temperature == pytest.approx(2.0, rel=0.1)
    # The temperature has done it all; the line stays near the diagonal.
    assert found.slope == pytest.approx(1.0, abs=0.2)
    assert found.intercept == pytest.approx(0.0, abs=0.2)


def test_the_line_mends_what_a_temperature_cannot():
    rng = np.random.default_rng(5)
    told = [
        Answered(a.probabilities, a.predicted, a.intent if rng.uniform() < 0.8 else "nobody")
        for a in answers()
    ]
    found = fit(told)
    right = np.array([a.predicted == a.intent for a in told])
    top = [temper(a.probabilities, found.temperature)[a.predicted] for a in told]
    confidence = np.array([line(p, found.slope, found.intercept) for p in top])
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.005)


def test_a_weight_counts_like_repetition():
    told = answers(400, sharpness=2.0)
    more = answers(400, sharpness=0.7, seed=4)
    weighed = fit(told + [a._replace(weight=3.0) for a in more])
    assert weighed == pytest.approx(fit(told + more * 3), rel=1e-3, abs=1e-3)
    assert weighed.temperature < fit(told + more).temperature - 0.05


def test_a_few_heavy_answers_determine_nothing():
    told = answers(1_000) + [a._replace(weight=100.0) for a in answers(10, seed=4)]
    with pytest.raises(CannotFit, match="of 1010, which weigh as 40 equal ones, determine no"):
        fit(told)


def test_the_threshold_counts_answers_and_does_not_weigh_them():
    told = answers()
    weighed = [a._replace(weight=1.0 + i % 9) for i, a in enumerate(told)]
    plain = choose_threshold(told, 1.3, label="out")
    assert choose_threshold(weighed, 1.3, label="out") == plain


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([], id="none"),
        pytest.param(answers(49), id="few"),
        pytest.param([a._replace(intent=a.predicted) for a in answers(200)], id="all right"),
        pytest.param([a._replace(intent="nobody") for a in answers(200)], id="all wrong"),
    ],
)
def test_what_the_data_does_not_determine_is_refused(told):
    with pytest.raises(CannotFit, match=r"right answers of \d+ determine no calibration"):
        fit(told)


def test_the_threshold_keeps_false_alarms_at_the_upper_bound():
    told = answers()
    point = choose_threshold(told, 1.0, label="out")
    inside = [a for a in told if a.intent != "out"]
    alarms = sum(a.probabilities["out"] >= point.threshold for a in inside)
    bound = binomtest(alarms, len(inside)).proportion_ci(0.90, method="exact").high
    assert point.false_alarms == alarms / len(inside)
    assert point.false_alarms_upper == pytest.approx(bound)
    assert bound <= 0.05
    one_more = binomtest(alarms + 1, len(inside)).proportion_ci(0.90, method="exact").high
    assert one_more > 0.05  # no lower threshold would do
    assert 0 < point.recall < 1
    assert (point.n_in_scope, point.n_out_of_scope) == (len(inside), len(told) - len(inside))


def test_the_bound_holds_on_data_that_was_not_fitted_on():
    kept = 0
    fresh = np.array(
        [a.probabilities["out"] for a in answers(5_000, seed=1_000) if a.intent != "out"]
    )
    for seed in range(40):
        point = choose_threshold(answers(250, seed=seed), 1.0, label="out")
        kept += (fresh >= point.threshold).mean() <= 0.05
    assert kept >= 34  # 95 % of 40, less three standard deviations


def test_equal_scores_are_on_one_side():
    told = [Answered({"a": 0.9, "out": 0.1}, "a", "a") for _ in range(200)]
    told += [Answered({"a": 0.5, "out": 0.5}, "a", "out")]
    point = choose_threshold(told, 1.0, label="out")
    assert (point.false_alarms, point.recall) == (0.0, 1.0)


def test_without_off_topic_questions_recall_is_unknown():
    told = [a for a in answers() if a.intent != "out"]
    point = choose_threshold(told, 1.0, label="out")
    assert (point.recall, point.n_out_of_scope) == (None, 0)
    assert point.false_alarms <= 0.05


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([a for a in answers() if a.intent == "out"], id="none in scope"),
        pytest.param(answers(60)[:40], id="58 alarm-free ones bound nothing"),
        pytest.param([Answered({"out": 1.0}, "out", "a")] * 100, id="certain of all"),
    ],
)
def test_where_false_alarms_cannot_be_bounded_there_is_no_threshold(told):
    assert choose_threshold(told, 1.0, label="out") is None


def test_an_intent_that_is_no_candidate_is_less_likely_than_the_last_one():
    told = [a._replace(intent="unheard of") if i % 7 == 0 else a for i, a in enumerate(answers())]
    found = fit(told)
    assert np.isfinite(found.temperature)
    assert found.temperature > 1.0  # being sure of what is never right is overconfidence
