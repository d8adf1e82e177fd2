"""The divergence of intents, against scipy and the numbers of its documentation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.drift.intents import divergence, unseen
from experiments.drift.summary import NO_INTENT, IntentCounts


def counts(**weights: float) -> IntentCounts:
    whole = {name: round(weight) for name, weight in weights.items()}
    return IntentCounts(n_sessions=round(sum(weights.values())), weights=weights, sessions=whole)


def test_divergence_is_kl_of_current_against_reference_in_nats_with_jeffreys_smoothing() -> None:
    ref, cur = counts(a=500, b=300, c=200), counts(a=250, b=150, c=600)
    p = (np.array([250, 150, 600]) + 0.5) / 1001.5
    q = (np.array([500, 300, 200]) + 0.5) / 1001.5
    found = divergence(ref, cur)
    assert found.kl_raw == pytest.approx(float(stats.entropy(p, q)), rel=1e-12)
    assert found.kl == pytest.approx(found.kl_raw - 2 / 2 * (1 / 1000 + 1 / 1000), rel=1e-12)
    assert found.contributions[0][0] == "c"
    assert sum(value for _, value in found.contributions) == pytest.approx(found.kl_raw)


def test_g_test_is_that_of_scipy_where_nothing_is_rare() -> None:
    ref, cur = counts(a=500, b=300, c=200), counts(a=230, b=170, c=100)
    table = [[500, 300, 200], [230, 170, 100]]
    expected = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").pvalue
    assert divergence(ref, cur).p_value == pytest.approx(float(expected), rel=1e-9)


def test_one_unseen_session_in_five_hundred_is_no_surprise() -> None:
    ref, cur = counts(a=250, b=250), counts(a=250, b=249, new=1)
    assert divergence(ref, cur).p_value > 0.9


def test_a_brand_new_intent_that_takes_over_is_finite_and_large() -> None:
    found = divergence(counts(a=600, b=400), counts(new=1000))
    assert math.isfinite(found.kl)
    assert found.kl > 5.0
    assert math.isfinite(found.standard_error)
    assert found.js_distance == pytest.approx(1.0, abs=0.05)


def test_the_standard_error_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(3)
    q, p = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.35, 0.25, 0.1, 0.3])
    names = ("a", "b", "c", "d")
    found = [
        divergence(
            counts(**dict(zip(names, rng.multinomial(2000, q).tolist(), strict=True))),
            counts(**dict(zip(names, rng.multinomial(500, p).tolist(), strict=True))),
        )
        for _ in range(400)
    ]
    spread = float(np.std([item.kl for item in found]))
    assert float(np.mean([item.standard_error for item in found])) == pytest.approx(spread, rel=0.1)
    assert float(np.mean([item.kl for item in found])) == pytest.approx(
        float(stats.entropy(p, q)), abs=0.01
    )


@pytest.mark.parametrize(("n", "stated"), [(100, 0.098), (200, 0.051), (500, 0.021)])
def test_the_noise_of_no_drift_stays_under_the_stated_bound(n: int, stated: float) -> None:
    """The bound covers what ten intents without drift reach once in a hundred windows."""
    rng = np.random.default_rng(5)
    share = np.full(10, 0.1)
    names = [f"i{k}" for k in range(10)]
    ref = counts(**dict(zip(names, (share * 1e6).tolist(), strict=True)))
    kls = [
        divergence(ref, counts(**dict(zip(names, rng.multinomial(n, share).tolist(), strict=True))))
        for _ in range(1000)
    ]
    reached = float(np.quantile([item.kl_raw for item in kls], 0.99))
    assert reached <= kls[0].noise99 * 1.1
    assert reached == pytest.approx(stated, rel=0.25)


@given(
    st.lists(st.integers(0, 300), min_size=6, max_size=6).filter(any),
    st.lists(st.integers(0, 300), min_size=6, max_size=6).filter(any),
)
def test_whatever_the_counts_the_divergence_is_a_finite_number(
    ref: list[int], cur: list[int]
) -> None:
    def made(values: list[int]) -> IntentCounts:
        return counts(**{f"i{k}": float(v) for k, v in enumerate(values) if v})

    found = divergence(made(ref), made(cur))
    assert found.kl >= 0
    assert all(
        math.isfinite(value) for value in (found.kl, found.standard_error, found.js_distance)
    )
    assert 0 <= found.p_value <= 1


def test_unseen_mass_needs_more_than_chance_and_leaves_out_answers_without_intent() -> None:
    ref = counts(a=900, b=100)
    few = unseen(ref, counts(a=495, **{NO_INTENT: 3}, new=2), alpha=0.01)
    assert few.share == pytest.approx(2 / 500)
    assert few.lower < 0.01
    assert few.labels == ()
    many = unseen(ref, counts(a=400, new=100), alpha=0.01)
    assert many.lower > 0.05
    assert many.labels == (("new", 100),)
