"""A window of traffic, reduced to the sums that the signals are computed from.

Every ratio is one of two sums over sessions, so that its variance knows that the answers of a
session resemble each other. A baseline file holds these sums and no traffic.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.drift.observations import UNLABELLED, Answers, Codes, Floats, Observations
from experiments.stats.distributions import norm_isf
from experiments.stats.moments import ProportionStats
from experiments.stats.quantile import OUTER_ALPHA, QuantileStats, minimum_observations
from experiments.stats.ratio import RatioStats

NO_INTENT = "(none)"
"""Label of answers that name no intent: invalid or unparsed ones among them."""
_P95 = 0.95
_WINSOR = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentCounts:
    """How sessions spread over intents. A session weighs 1, shared out over its answers."""

    n_sessions: int
    weights: Mapping[str, float]
    """Sum of the sessions' shares per intent; adds up to `n_sessions`."""
    sessions: Mapping[str, int]
    """Sessions with at least one such answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Sufficient statistics of a window."""

    since: float
    until: float
    n_answers: int
    n_failed: int
    n_sessions: int
    confidence: RatioStats
    """Sum of confidence over labelled answers."""
    fallback: RatioStats
    """Answers that did not understand over answers."""
    latency: QuantileStats | None
    """p95 in seconds; None with too few answers for one."""
    n_latencies: int
    tokens: RatioStats
    """Tokens, capped at `token_cap` per answer, over answers."""
    token_cap: float | None
    satisfaction: RatioStats
    """Good votes over votes."""
    leads: ProportionStats
    intents: IntentCounts


def summarise(
    seen: Observations,
    *,
    since: float,
    until: float,
    fallback_intents: frozenset[str],
    token_cap: float | None = None,
) -> Summary:
    """Reduce a window.

    Args:
        seen: What happened in it.
        since: Its start, seconds since the epoch.
        until: Its end.
        fallback_intents: Intents that say "not understood".
        token_cap: Cap of the reference; None takes the 99.9th percentile of this window, so that
            one runaway answer does not look like drift.
    """
    answers = seen.answers
    done = ~answers.failed
    labelled = np.isfinite(answers.confidence)
    measured = np.isfinite(answers.latency_s)
    counted = np.isfinite(answers.tokens)
    if token_cap is None and counted.any():
        token_cap = float(np.quantile(answers.tokens[counted], _WINSOR))
    tokens = np.minimum(answers.tokens, math.inf if token_cap is None else token_cap)
    ones = np.ones(answers.at.size)
    return Summary(
        since=since,
        until=until,
        n_answers=int(done.sum()),
        n_failed=int(answers.failed.sum()),
        n_sessions=int(np.unique(answers.session).size),
        confidence=_ratio(answers.session, answers.confidence, ones, labelled),
        fallback=_ratio(
            answers.session, _fallbacks(answers, seen.intents, fallback_intents), ones, done
        ),
        latency=_p95(answers.latency_s[measured], answers.session[measured]),
        n_latencies=int(measured.sum()),
        tokens=_ratio(answers.session, tokens, ones, counted),
        token_cap=token_cap,
        satisfaction=_ratio(
            seen.votes.session,
            seen.votes.good,
            np.ones(seen.votes.at.size),
            np.isfinite(seen.votes.good),
        ),
        leads=ProportionStats(n=int(seen.closed.at.size), successes=int(seen.closed.lead.sum())),
        intents=_intents(answers.session[done], answers.intent[done], seen.intents),
    )


def _ratio(session: Codes, x: Floats, y: Floats, keep: np.ndarray) -> RatioStats:
    """Return the sums over sessions of two columns."""
    if not keep.any():
        return RatioStats.from_pairs(())
    _, code = np.unique(session[keep], return_inverse=True)
    top = np.bincount(code, weights=x[keep])
    bottom = np.bincount(code, weights=y[keep])
    return RatioStats(
        n=int(top.size),
        sum=math.fsum(top),
        sum_squares=math.fsum(top * top),
        denominator_sum=math.fsum(bottom),
        denominator_sum_squares=math.fsum(bottom * bottom),
        sum_products=math.fsum(top * bottom),
    )


def _fallbacks(answers: Answers, names: tuple[str, ...], wanted: frozenset[str]) -> Floats:
    codes = [code for code, name in enumerate(names) if name in wanted]
    return np.isin(answers.intent, [UNLABELLED, *codes]).astype(np.float64)


def _p95(latency_s: Floats, session: Codes) -> QuantileStats | None:
    """Return what `QuantileStats.from_values` would, in one vectorised pass."""
    n = int(latency_s.size)
    if n < minimum_observations(_P95):
        return None
    ordered = np.sort(latency_s)
    half = norm_isf(OUTER_ALPHA / 2.0) * math.sqrt(_P95 * (1.0 - _P95) / n)
    value = float(ordered[math.ceil(n * _P95) - 1])
    below = (latency_s <= value).astype(np.float64)
    return QuantileStats(
        n_observations=n,
        level=_P95,
        value=value,
        lower=float(ordered[max(1, math.floor(n * (_P95 - half))) - 1]),
        upper=float(ordered[min(n, math.ceil(n * (_P95 + half))) - 1]),
        clusters=_ratio(session, below, np.ones(n), np.ones(n, dtype=bool)),
    )


def _intents(session: Codes, intent: Codes, names: tuple[str, ...]) -> IntentCounts:
    if not session.size:
        return IntentCounts(n_sessions=0, weights={}, sessions={})
    _, code, sizes = np.unique(session, return_inverse=True, return_counts=True)
    n_labels = len(names) + 1
    column = np.where(intent == UNLABELLED, len(names), intent)
    weights = np.bincount(column, weights=1.0 / sizes[code], minlength=n_labels)
    pairs = np.unique(code * n_labels + column)
    sessions = np.bincount(pairs % n_labels, minlength=n_labels)
    labels = (*names, NO_INTENT)
    return IntentCounts(
        n_sessions=int(sizes.size),
        weights={name: float(weights[i]) for i, name in enumerate(labels) if sessions[i]},
        sessions={name: int(sessions[i]) for i, name in enumerate(labels) if sessions[i]},
    )
