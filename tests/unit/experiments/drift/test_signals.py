"""Signals, levels and reading: what counts, and what exactly a threshold is."""

import math
from pathlib import Path

import numpy as np
import pytest

from experiments.drift.levels import Level, Windowed, judge
from experiments.drift.observations import Answers, Closed, Observations, Votes
from experiments.drift.performance import anomalies, rhythms
from experiments.drift.policy import DriftPolicy, SignalName
from experiments.drift.signals import measure
from experiments.drift.source import read_traffic
from experiments.drift.summary import Summary, summarise
from experiments.events.store import EventStore
from experiments.stats.quantile import QuantileStats
from experiments.stats.ratio import RatioStats
from tests.unit.experiments.events.builders import feedback, outcome

POLICY = DriftPolicy(fallback_intents=frozenset({"lost"}))
HOUR_S = 3600.0


def constant(
    n: int, *, confidence: float = 0.9, latency_s: float = 1.0, tokens: float = 100.0
) -> Observations:
    """Return sessions of one answer each that are all alike, half of them praised and leads."""
    half = (np.arange(n) % 2).astype(np.float64)
    at = np.arange(n, dtype=np.float64)
    return Observations(
        intents=("a", "b"),
        models=(),
        answers=Answers(
            at=at,
            session=np.arange(n),
            intent=np.arange(n) % 2,
            confidence=np.full(n, confidence),
            latency_s=np.full(n, latency_s),
            tokens=np.full(n, tokens),
            failed=np.zeros(n, dtype=bool),
        ),
        votes=Votes(at=at, session=np.arange(n), good=half),
        closed=Closed(at=at, lead=half),
    )


def summary(seen: Observations, cap: float | None = None) -> Summary:
    return summarise(
        seen, since=0, until=HOUR_S, fallback_intents=POLICY.fallback_intents, token_cap=cap
    )


@pytest.mark.parametrize(
    ("signal", "change", "level"),
    [
        (SignalName.CONFIDENCE, {"confidence": 0.72}, Level.CRITICAL),
        (SignalName.CONFIDENCE, {"confidence": 0.7201}, Level.WARNING),
        (SignalName.CONFIDENCE, {"confidence": 0.81}, Level.WARNING),
        (SignalName.CONFIDENCE, {"confidence": 0.8101}, Level.OK),
        (SignalName.LATENCY_P95, {"latency_s": 2.0}, Level.CRITICAL),
        (SignalName.LATENCY_P95, {"latency_s": 1.999}, Level.WARNING),
        (SignalName.LATENCY_P95, {"latency_s": 1.499}, Level.OK),
        (SignalName.TOKENS, {"tokens": 150.0}, Level.CRITICAL),
        (SignalName.TOKENS, {"tokens": 50.0}, Level.CRITICAL),
        (SignalName.TOKENS, {"tokens": 130.0}, Level.WARNING),
        (SignalName.TOKENS, {"tokens": 129.0}, Level.OK),
    ],
)
def test_without_noise_a_threshold_is_exact(
    signal: SignalName, change: dict[str, float], level: Level
) -> None:
    # Winsorising at the constant itself would hide a rise, so the cap is the reference's spread.
    reference = summary(constant(2000), cap=1000.0)
    current = summary(constant(500, **change), cap=1000.0)
    alpha = POLICY.alpha(critical=True)
    found = {
        name: Windowed(hours=1, found=item)
        for name, item in measure(reference, current, POLICY, alpha=alpha).items()
    }
    (judged,) = [
        item for item in judge(found, found, POLICY, n_variants=1) if item.signal == signal
    ]
    assert judged.level is level, judged.reasons


def test_the_summary_is_that_of_the_statistics_package() -> None:
    rng = np.random.default_rng(1)
    seen = constant(600)
    session = rng.integers(0, 150, 600)
    latency = rng.lognormal(size=600)
    from dataclasses import replace

    seen = replace(seen, answers=replace(seen.answers, session=session, latency_s=latency))
    found = summary(seen)
    expected = QuantileStats.from_values(latency, 0.95, sessions=session.tolist())
    assert found.latency is not None
    assert found.latency.variance == pytest.approx(expected.variance)
    assert found.latency.value == expected.value
    pairs = [
        (float((session == code).sum() * 0.9), float((session == code).sum()))
        for code in np.unique(session)
    ]
    assert found.confidence.variance == pytest.approx(RatioStats.from_pairs(pairs).variance)


def test_a_window_with_too_little_is_refused_with_both_numbers() -> None:
    found = measure(summary(constant(2000)), summary(constant(60)), POLICY, alpha=0.01)
    assert found[SignalName.CONFIDENCE].effect is None
    assert found[SignalName.CONFIDENCE].refusal == (
        "60 sessions with a confidence in the window; 100 are needed"
    )


def test_reading_counts_what_happened_once(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    file = EventStore(path)
    at = 1_700_000_000.0
    file.append(
        [
            outcome("c-1", unit="u1", finished_at=at, intent="a", confidence=0.9, duration_s=2.0),
            outcome("c-2", unit="u1", finished_at=at + 9, intent="a", cache="hit", duration_s=0.01),
            outcome("c-3", unit="u2", finished_at=at, exposure="pinned", intent="a"),
            outcome("c-4", unit="u3", finished_at=at, status="aborted"),
            outcome("c-5", unit=None, finished_at=at, status="error", error_code="timeout"),
            outcome("c-6", unit="u4", finished_at=at + 7200, variant="candidate", intent="b"),
            outcome("c-7", unit="u5", finished_at=at + 9000, intent="a"),
            feedback("f-1", target="c-1", received_at=at + 1, value=1.0),
            feedback("f-2", target="c-1", received_at=at + 2, value=0.0),
            feedback("f-3", target="c-1", received_at=at + 3, value=1.0, tenant="other"),
            feedback(
                "f-4", target="u1", received_at=at + 4, level="episode", metric="lead_captured"
            ),
            feedback("f-5", target="c-9", received_at=at + 4, value=1.0),
        ]
    )
    file.close()
    found = read_traffic(path, POLICY, since=at, until=at + 10_000)
    assert set(found) == {"stable", "candidate"}
    stable = found["stable"]
    assert stable.answers.at.size == 4
    assert int(stable.answers.failed.sum()) == 1
    timed = stable.answers.latency_s
    assert sorted(timed[np.isfinite(timed)].tolist()) == [0.5, 2.0]  # neither cached nor failed
    assert stable.votes.good.tolist() == [0.0]
    assert stable.closed.lead.tolist() == [1.0]  # u5 may still go on, and pinned is no session


def test_an_anomalous_hour_is_found_by_its_robust_z_score() -> None:
    rng = np.random.default_rng(2)
    start = 1_760_054_400.0
    at = np.sort(start + rng.random(24 * 8 * 60) * 24 * 8 * HOUR_S)
    n = at.size
    slow = (at >= start + 180 * HOUR_S) & (at < start + 181 * HOUR_S)
    latency = rng.lognormal(0, 0.3, n) * np.where(slow, 3.0, 1.0)
    seen = Observations(
        intents=(),
        models=(),
        answers=Answers(
            at=at,
            session=np.arange(n),
            intent=np.full(n, -1),
            confidence=np.full(n, math.nan),
            latency_s=latency,
            tokens=np.full(n, math.nan),
            failed=np.zeros(n, dtype=bool),
        ),
        votes=Votes(at=np.array([]), session=np.array([], dtype=np.int64), good=np.array([])),
        closed=Closed(at=np.array([]), lead=np.array([])),
    )
    week = start + 168 * HOUR_S
    usual = rhythms(seen, since=start, until=week)
    found = anomalies(usual, seen, since=week, until=week + 24 * HOUR_S, z=6.0)
    assert [(item.series, item.hour) for item in found] == [
        ("latency_mean_s", start + 180 * HOUR_S)
    ]
