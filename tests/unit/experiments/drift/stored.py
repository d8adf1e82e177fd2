"""Made-up traffic, written into a real event file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.drift.observations import Observations
from experiments.drift.traffic_model import Change, make_trace, replay
from experiments.events.records import Event
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import feedback, outcome

START = 1_760_054_400.0  # 2025-10-10 00:00 UTC
DAY_S = 86_400.0
REFERENCE_DAYS = 7.0
PER_DAY = 400


def store_traffic(
    home: Path,
    change: Change | None = None,
    *,
    days: float = 2.0,
    per_day: int = PER_DAY,
    start: float = START,
) -> float:
    """Store a week without drift and some days with it; return when they end."""
    rng = np.random.default_rng(7)
    trace = make_trace(rng, sessions=4000)
    onset = start + REFERENCE_DAYS * DAY_S
    before = replay(trace, rng, since=start, days=REFERENCE_DAYS, sessions_per_day=per_day)
    after = replay(trace, rng, since=onset, days=days, sessions_per_day=per_day, change=change)
    file = EventStore(home / "events" / "events.db")
    file.append(_events(before, "a"))
    file.append(_events(after, "b"))
    file.close()
    return onset + days * DAY_S


def _events(seen: Observations, prefix: str) -> Iterator[Event]:
    answers = seen.answers
    rows: dict[tuple[int, float], str] = {}
    last: dict[int, float] = {}
    for i in range(answers.at.size):
        name, session, at = f"chatcmpl-{prefix}-{i}", int(answers.session[i]), float(answers.at[i])
        rows[session, at], last[session] = name, at
        failed = bool(answers.failed[i])
        yield outcome(
            name,
            finished_at=at,
            unit=f"{prefix}-{session}",
            status="error" if failed else "ok",
            duration_s=30.0 if failed else float(answers.latency_s[i]),
            prompt_tokens=None if failed else 0,
            completion_tokens=None if failed else int(answers.tokens[i]),
            intent=None if failed else seen.intents[answers.intent[i]],
            confidence=None if failed else float(answers.confidence[i]),
        )
    votes = seen.votes
    for at, session, good in zip(votes.at, votes.session, votes.good, strict=True):
        target = rows[int(session), float(at)]
        yield feedback(f"v-{target}", target=target, received_at=float(at), value=float(good))
    leads = dict(zip(seen.closed.at.tolist(), seen.closed.lead.tolist(), strict=True))
    for session, at in last.items():
        if leads[at]:
            yield feedback(
                f"l-{prefix}-{session}",
                target=f"{prefix}-{session}",
                level="episode",
                metric="lead_captured",
                received_at=at,
            )
