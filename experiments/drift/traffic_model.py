"""Made-up traffic for the proof of the detector: sessions, their answers, votes and leads.

A trace of sessions is made once and then replayed: sessions are drawn from it again, with a daily
and a weekly rhythm, so that two replays differ by chance alone and truth is known (A/A). Answers of
a session resemble each other, which is what fools detectors that count requests.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experiments.drift.observations import Answers, Closed, Codes, Floats, Observations, Votes

_DAY_S = 86_400.0
_N_INTENTS = 12
FALLBACK = "not_understood"
NEW_INTENT = "brand_new"
INTENTS = (*(f"intent_{i:02d}" for i in range(_N_INTENTS)), FALLBACK, NEW_INTENT)
_FALLBACK_CODE = _N_INTENTS
NEW_CODE = _N_INTENTS + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Sessions, laid out one after the other."""

    first: Codes
    """Index of each session's first answer, and the end of the last one."""
    intent: Codes
    confidence: Floats
    latency_s: Floats
    tokens: Floats
    failed: NDArray[np.bool_]
    vote: Floats
    """1 good, 0 bad, NaN none."""
    lead: Floats
    """Per session."""


def make_trace(rng: np.random.Generator, *, sessions: int) -> Trace:
    """Make sessions of 1 to 11 answers whose qualities are correlated inside a session."""
    sizes = np.minimum(11, rng.geometric(0.3, sessions))
    first = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(sessions), sizes)
    n = int(first[-1])
    mood = rng.normal(size=sessions)[owner]
    popularity = 1.0 / np.arange(1, _N_INTENTS + 1)
    main = rng.choice(_N_INTENTS, sessions, p=popularity / popularity.sum())[owner]
    other = rng.choice(_N_INTENTS, n, p=popularity / popularity.sum())
    intent = np.where(rng.random(n) < 0.5, main, other)
    lost = rng.random(n) < 0.06 * np.exp(0.5 * mood - 0.125)
    votes = rng.random(n) < 0.3
    good = (0.9 * mood + rng.normal(size=n) > -1.1).astype(np.float64)
    return Trace(
        first=first.astype(np.int64),
        intent=np.where(lost, _FALLBACK_CODE, intent).astype(np.int64),
        confidence=np.clip(0.82 + 0.06 * mood + 0.08 * rng.normal(size=n), 0.0, 1.0),
        latency_s=np.exp(-0.3 + 0.25 * mood + 0.45 * rng.normal(size=n)),
        tokens=np.round(np.exp(5.0 + 0.3 * mood + 0.4 * rng.normal(size=n))).astype(np.float64),
        failed=rng.random(n) < 0.005,
        vote=np.where(votes, good, np.nan),
        lead=(rng.random(sessions) < 0.4).astype(np.float64),
    )


Change = Callable[[Trace, np.random.Generator], Trace]
"""What a drift does to sessions."""


def replay(
    trace: Trace,
    rng: np.random.Generator,
    *,
    since: float,
    days: float,
    sessions_per_day: int,
    change: Change | None = None,
) -> Observations:
    """Draw sessions again, over some days.

    Args:
        trace: Where sessions come from.
        rng: Chance.
        since: Start, seconds since the epoch.
        days: Length.
        sessions_per_day: On average; nights and weekends are quieter.
        change: Drift from the first moment on; None for A/A.
    """
    starts = _starts(rng, since, days, sessions_per_day)
    drawn = _gather(trace, rng.integers(0, trace.lead.size, starts.size))
    if change is not None:
        drawn = change(drawn, rng)
    sizes = np.diff(drawn.first)
    owner = np.repeat(np.arange(starts.size), sizes)
    step = np.arange(owner.size) - drawn.first[:-1][owner]
    at = starts[owner] + 45.0 * step
    hour = (at % _DAY_S) / 3600.0
    busy = 1.0 + 0.15 * np.sin((hour - 9.0) / 24.0 * 2.0 * np.pi)
    order = np.argsort(at, kind="stable")
    unknown = np.where(drawn.failed, np.nan, 1.0)
    answers = Answers(
        at=at[order],
        session=owner[order].astype(np.int64),
        intent=drawn.intent[order],
        confidence=(drawn.confidence * unknown)[order],
        latency_s=(drawn.latency_s * busy * unknown)[order],
        tokens=(drawn.tokens * unknown)[order],
        failed=drawn.failed[order],
    )
    voted = order[np.isfinite(drawn.vote[order])]
    last = at[drawn.first[1:] - 1]
    by_end = np.argsort(last, kind="stable")
    return Observations(
        intents=INTENTS,
        models=("0" * 64,),
        answers=answers,
        votes=Votes(at=at[voted], session=owner[voted].astype(np.int64), good=drawn.vote[voted]),
        closed=Closed(at=last[by_end], lead=drawn.lead[by_end]),
    )


def _starts(rng: np.random.Generator, since: float, days: float, sessions_per_day: int) -> Floats:
    """Return the start of each session: Poisson, by a daily and a weekly rhythm."""
    peak = 2.0 * sessions_per_day
    n = rng.poisson(peak * days)
    at = np.sort(since + rng.random(n) * days * _DAY_S)
    hour = (at % _DAY_S) / 3600.0
    weekend = ((at // _DAY_S + 3) % 7) >= 5
    rate = (
        0.5 * (1.0 + 0.8 * np.sin((hour - 9.0) / 24.0 * 2.0 * np.pi)) * np.where(weekend, 0.8, 1.08)
    )
    kept: Floats = at[rng.random(n) < rate]
    return kept


def _gather(trace: Trace, chosen: Codes) -> Trace:
    """Return the trace that consists of the chosen sessions, in that order."""
    sizes = np.diff(trace.first)[chosen]
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows = np.repeat(trace.first[:-1][chosen] - first[:-1], sizes) + np.arange(first[-1])
    return Trace(
        first=first,
        intent=trace.intent[rows],
        confidence=trace.confidence[rows],
        latency_s=trace.latency_s[rows],
        tokens=trace.tokens[rows],
        failed=trace.failed[rows],
        vote=trace.vote[rows],
        lead=trace.lead[chosen],
    )


def scale_confidence(drop: float) -> Change:
    """Lower every confidence by a share."""
    return lambda trace, _: replace(trace, confidence=trace.confidence * (1.0 - drop))


def slow_down(rise: float) -> Change:
    """Raise every latency by a share."""
    return lambda trace, _: replace(trace, latency_s=trace.latency_s * (1.0 + rise))


def lengthen(rise: float) -> Change:
    """Raise the tokens of every answer by a share."""
    return lambda trace, _: replace(trace, tokens=trace.tokens * (1.0 + rise))


def stop_understanding(rise_pp: float) -> Change:
    """Raise the share of answers that did not understand."""

    def change(trace: Trace, rng: np.random.Generator) -> Trace:
        understood = trace.intent != _FALLBACK_CODE
        lost = rng.random(understood.size) < rise_pp / understood.mean()
        return replace(trace, intent=np.where(understood & lost, _FALLBACK_CODE, trace.intent))

    return change


def dissatisfy(drop_pp: float) -> Change:
    """Lower the share of good votes."""

    def change(trace: Trace, rng: np.random.Generator) -> Trace:
        share = drop_pp / np.nanmean(trace.vote)
        spoilt = (trace.vote == 1.0) & (rng.random(trace.vote.size) < share)
        return replace(trace, vote=np.where(spoilt, 0.0, trace.vote))

    return change


def lose_leads(drop_pp: float) -> Change:
    """Lower the share of sessions with a lead."""

    def change(trace: Trace, rng: np.random.Generator) -> Trace:
        lost = rng.random(trace.lead.size) < drop_pp / trace.lead.mean()
        return replace(trace, lead=np.where(lost, 0.0, trace.lead))

    return change


def move_intents(share: float, *, to: int) -> Change:
    """Turn a share of all answers into one intent."""

    def change(trace: Trace, rng: np.random.Generator) -> Trace:
        moved = rng.random(trace.intent.size) < share
        return replace(trace, intent=np.where(moved, to, trace.intent))

    return change
