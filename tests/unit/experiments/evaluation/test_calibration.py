"""Expected values are worked out by hand or from the definition."""

import numpy as np
import pytest

from experiments.evaluation.calibration import (
    Scored,
    apply_temperature,
    calibrate,
    ece_by_chance,
    ece_interval,
    figures,
    fit_temperature,
    selective_accuracy,
)
from experiments.evaluation.predictions import Prediction


def scored(*pairs: tuple[float, int]) -> Scored:
    p, right = zip(*pairs, strict=True)
    return Scored(np.array(p), np.array(right, dtype=float))


def test_ece_of_two_bins_by_hand():
    # Two answers in (0.6, 0.667]: mean 0.65, half right; two in (0.933, 1]: mean 0.96, right.
    found = figures(scored((0.64, 1), (0.66, 0), (0.95, 1), (0.97, 1)))
    assert found.ece == pytest.approx((2 * 0.15 + 2 * 0.04) / 4)
    assert found.brier == pytest.approx((0.36**2 + 0.66**2 + 0.05**2 + 0.03**2) / 4)
    expected = -np.mean(np.log([0.64, 0.34, 0.95, 0.97]))
    assert found.nll == pytest.approx(expected)
    assert sum(b.n for b in found.bins) == 4
    assert len(found.bins) == 15


def test_adaptive_bins_hold_equally_many():
    # 30 answers in 15 bins of 2: every pair has probability 0.7 and one right answer.
    found = figures(scored(*[(0.7, i % 2) for i in range(30)]))
    assert found.ece_adaptive == pytest.approx(0.2)


def test_the_ends_of_the_scale_have_a_bin():
    found = figures(scored((0.0, 0), (1.0, 1)))
    assert (found.bins[0].n, found.bins[-1].n) == (1, 1)
    assert np.isfinite(found.nll)


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(7)
    honest = rng.uniform(0.02, 0.98, 20_000)
    right = (rng.uniform(size=honest.size) < honest).astype(float)
    sure = apply_temperature(honest, 1 / 3.0)
    temperature = fit_temperature(Scored(sure, right))
    assert temperature == pytest.approx(3.0, rel=0.05)
    before = figures(Scored(sure, right))
    after = figures(Scored(apply_temperature(sure, temperature), right))
    assert after.ece < 0.02 < before.ece
    assert after.nll < before.nll


def test_one_outcome_fits_no_temperature():
    assert fit_temperature(scored((0.9, 1), (0.8, 1))) is None


def test_selective_accuracy_gives_the_surest_answers_first():
    points = selective_accuracy(scored((0.9, 1), (0.8, 1), (0.3, 0), (0.1, 0)))
    at = {p.coverage: p for p in points}
    assert at[0.5].accuracy == 1.0
    assert at[0.5].threshold == 0.8
    assert at[1.0].accuracy == 0.5


def prediction(number: int, group: str, **more) -> Prediction:
    fields = {
        "id": f"i{number}",
        "suite": "s",
        "group": group,
        "intent": "saludo",
        "predicted": "saludo",
        "schema_valid": True,
        "correct": number % 3 > 0,
        "probability": 0.5 + (number % 50) / 100,
        "latency_s": 0.1,
        "text": "",
    }
    return Prediction.model_validate(fields | more)


def test_groups_stay_together_and_the_figures_are_of_the_other_half():
    predictions = [prediction(i, f"g{i // 4}") for i in range(400)]
    found = calibrate(predictions)
    assert found.n == 400
    assert found.n_fit % 4 == 0
    assert 100 < found.n_fit < 300
    assert found.heldout_fitted is not None
    assert sum(b.n for b in found.heldout_fitted.bins) == found.n - found.n_fit


def test_answers_without_probability_are_counted():
    found = calibrate([prediction(1, "g", probability=None)])
    assert (found.n, found.n_without_probability, found.raw) == (0, 1, None)


def test_the_interval_of_the_ece_covers_what_many_samples_show():
    rng = np.random.default_rng(11)
    honest = rng.uniform(0.3, 0.99, 2_000)
    right = (rng.uniform(size=honest.size) < honest - 0.1).astype(float)
    lower, upper = ece_interval(Scored(honest, right), [str(i) for i in range(honest.size)])
    assert lower < 0.1 < upper
    assert upper - lower < 0.06
    # Ten answers that stand and fall together are one observation.
    grouped = ece_interval(Scored(honest, right), [str(i // 200) for i in range(honest.size)])
    assert grouped != (lower, upper)


def test_the_interval_holds_the_figure_where_nothing_but_noise_is_wrong():
    rng = np.random.default_rng(12)
    honest = rng.uniform(0.3, 0.99, 1_000)
    exact = Scored(honest, (rng.uniform(size=honest.size) < honest).astype(float))
    lower, upper = ece_interval(exact, [str(i) for i in range(honest.size)])
    assert 0.0 <= lower < figures(exact).ece < upper


def test_one_group_has_an_interval_without_width():
    found = ece_interval(scored((0.9, 1), (0.7, 0)), ["g", "g"])
    assert found == pytest.approx((0.4, 0.4))


def test_sampling_alone_makes_an_error_that_shrinks_with_the_sample():
    few, many = (ece_by_chance(np.linspace(0.05, 0.95, n)) for n in (200, 5_000))
    assert 0.05 < few < 0.15
    assert few / many == pytest.approx(5.0, rel=0.1)  # like one over the root of n
