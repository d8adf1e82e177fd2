"""Traffic of one variant as columns: one row per answer, per vote, per closed session."""

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

UNLABELLED = -1
"""Intent code of an answer that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Requests that ended; arrays of one length. What is unknown is NaN."""

    at: Floats
    """Seconds since the epoch."""
    session: Codes
    """Number of the session; requests without one are sessions of their own."""
    intent: Codes
    """Index into `Observations.intents`, `UNLABELLED` for none."""
    confidence: Floats
    latency_s: Floats
    """NaN for what no model answered anew: cached answers, errors."""
    tokens: Floats
    """Prompt and completion; NaN as for latency."""
    failed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Good (1) and bad (0) votes on answers."""

    at: Floats
    session: Codes
    good: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Sessions that are over, and whether (1, 0) they left a lead."""

    at: Floats
    """Their last request."""
    lead: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Everything about one variant in a period, each part sorted by time."""

    intents: tuple[str, ...]
    """Names of the intent codes."""
    models: tuple[str, ...]
    """SHA-256 of the weights that answered."""
    answers: Answers
    votes: Votes
    closed: Closed

    def window(self, start: float, end: float) -> "Observations":
        """Return what was at or after `start` and before `end`."""
        return Observations(
            intents=self.intents,
            models=self.models,
            answers=_cut(self.answers, start, end),
            votes=_cut(self.votes, start, end),
            closed=_cut(self.closed, start, end),
        )

    def followed_by(self, later: "Observations") -> "Observations":
        """Return both periods together; the later one's sessions are other sessions."""
        if self.intents != later.intents:
            raise ValueError(f"intents differ: {self.intents} and {later.intents}")
        shift = 1 + max(
            (int(part.session.max()) for part in (self.answers, self.votes) if part.session.size),
            default=-1,
        )
        return Observations(
            intents=self.intents,
            models=tuple(sorted({*self.models, *later.models})),
            answers=_join(self.answers, later.answers, shift),
            votes=_join(self.votes, later.votes, shift),
            closed=_join(self.closed, later.closed, shift),
        )


Part = TypeVar("Part", Answers, Votes, Closed)


def _cut(part: Part, start: float, end: float) -> Part:
    low, high = np.searchsorted(part.at, [start, end])
    return type(part)(**{f.name: getattr(part, f.name)[low:high] for f in fields(part)})


def _join(first: Part, second: Part, shift: int) -> Part:
    columns = {}
    for field in fields(first):
        later = getattr(second, field.name)
        columns[field.name] = np.concatenate(
            [getattr(first, field.name), later + shift if field.name == "session" else later]
        )
    return type(first)(**columns)
