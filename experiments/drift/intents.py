"""The distribution of intents: divergence, its error, and what the reference has never seen.

What is computed, so that a threshold means something:

    categories  the union of both windows' intents, and "(none)" for answers without one
    smoothing   p_i = (c_i + 1/2) / (n + k/2), Jeffreys, for both windows, k categories
    direction   KL(current || reference) = sum p_i ln(p_i / q_i)
    base        e, so nats
    correction  minus (k - 1) / 2 * (1/n_c + 1/n_r), what it is on average without any drift

A brand-new intent is a category with half a session in the reference: finite, however new.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from experiments.drift.summary import NO_INTENT, IntentCounts
from experiments.stats.distributions import chi2_sf
from experiments.stats.moments import ProportionStats
from experiments.stats.proportions import wilson_interval

_JEFFREYS = 0.5
_LEAST_EXPECTED = 5.0
"""Below this expected count the chi-squared approximation is poor (Cochran 1954)."""
_NEW_LABEL_SESSIONS = 3
"""Sessions with a new intent from which it is told by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far the current intents are from the reference."""

    kl: float
    """Bias-corrected, at least 0."""
    kl_raw: float
    standard_error: float
    p_value: float
    """G-test of both windows having one distribution."""
    noise99: float
    """KL that chance alone exceeds once in a hundred windows."""
    js_distance: float
    """Jensen-Shannon distance in [0, 1]: bounded and symmetric, for people."""
    contributions: tuple[tuple[str, float], ...]
    """The intents with the largest terms of the sum, with sign."""
    n_categories: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Traffic on intents that the reference does not have."""

    share: float
    """Of the sessions' weight."""
    lower: float
    standard_error: float
    labels: tuple[tuple[str, int], ...]
    """New intents with their sessions, from three sessions on."""


def divergence(reference: IntentCounts, current: IntentCounts) -> Divergence:
    """Compare two distributions of intents; both need a session.

    The standard error is the delta method's: Var_p(ln(p/q)) / n_c + Var_q(p/q) / n_r. Sessions,
    not answers, are the sample.

    References:
        Kullback, Leibler (1951); Miller (1955) for the bias; scipy.special.rel_entr.
    """
    labels = sorted(reference.weights.keys() | current.weights.keys())
    n_r, n_c, k = reference.n_sessions, current.n_sessions, len(labels)
    ref = np.array([reference.weights.get(label, 0.0) for label in labels])
    cur = np.array([current.weights.get(label, 0.0) for label in labels])
    p = (cur + _JEFFREYS) / (n_c + _JEFFREYS * k)
    q = (ref + _JEFFREYS) / (n_r + _JEFFREYS * k)
    terms = special.rel_entr(p, q)
    raw = float(terms.sum())
    log_ratio, ratio = np.log(p / q), p / q
    variance = (
        float(p @ log_ratio**2 - (p @ log_ratio) ** 2) / n_c
        + float(q @ ratio**2 - (q @ ratio) ** 2) / n_r
    )
    share = 1.0 / n_c + 1.0 / n_r
    middle = (p + q) / 2.0
    js = float(special.rel_entr(p, middle).sum() + special.rel_entr(q, middle).sum()) / 2.0
    order = np.argsort(-np.abs(terms))[:5]
    return Divergence(
        kl=max(0.0, raw - (k - 1) / 2.0 * share),
        kl_raw=raw,
        standard_error=math.sqrt(max(0.0, variance)),
        p_value=_g_test(ref, cur, n_r, n_c),
        noise99=float(special.chdtri(max(1, k - 1), 0.01)) / 2.0 * share,
        js_distance=math.sqrt(max(0.0, js) / math.log(2.0)),
        contributions=tuple((labels[i], float(terms[i])) for i in order),
        n_categories=k,
    )


def unseen(reference: IntentCounts, current: IntentCounts, *, alpha: float) -> Unseen:
    """Measure the traffic on intents that the reference lacks.

    Args:
        reference: Intents of the baseline.
        current: Intents of the window, with a session at least.
        alpha: One-sided error rate of `lower` (Wilson's bound).
    """
    new = [name for name in current.weights if name not in reference.weights and name != NO_INTENT]
    n = current.n_sessions
    mass = min(float(n), math.fsum(current.weights[name] for name in new))
    arm = ProportionStats(n=n, successes=round(mass))
    told = [(name, current.sessions[name]) for name in new]
    return Unseen(
        share=mass / n,
        lower=wilson_interval(arm, alpha=2.0 * alpha).lower,
        standard_error=math.sqrt(arm.variance / n),
        labels=tuple(
            sorted(
                ((name, count) for name, count in told if count >= _NEW_LABEL_SESSIONS),
                key=lambda item: (-item[1], item[0]),
            )
        ),
    )


def _g_test(ref: np.ndarray, cur: np.ndarray, n_r: int, n_c: int) -> float:
    """Return the p-value of the two-sample likelihood-ratio test, rare intents pooled.

    If they are rare together as well, they join the next smallest. Both samples count: one new
    intent in 500 sessions is not a surprise, as it is for a test that takes the reference for the
    truth. Equal to `scipy.stats.chi2_contingency(correction=False, lambda_="log-likelihood")` where
    nothing is rare.
    """
    smaller = min(n_r, n_c) / (n_r + n_c)
    rare = (ref + cur) * smaller < _LEAST_EXPECTED
    rows = np.array([[*ref[~rare], ref[rare].sum()], [*cur[~rare], cur[rare].sum()]])
    rows = rows[:, np.argsort(rows.sum(axis=0))]
    while rows.shape[1] > 1 and rows[:, 0].sum() * smaller < _LEAST_EXPECTED:
        rows = np.column_stack([rows[:, :2].sum(axis=1), rows[:, 2:]])
    if rows.shape[1] < 2:
        return 1.0
    expected = np.outer(rows.sum(axis=1), rows.sum(axis=0)) / rows.sum()
    statistic = 2.0 * float(special.rel_entr(rows, expected).sum())
    return chi2_sf(max(0.0, statistic), rows.shape[1] - 1)
