"""Jobs, a clock and a KV memory for tests of the line, without llama.cpp."""

import itertools
from collections.abc import Iterable
from typing import Any

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.seats import Seats
from serve_app.engines.protocol import GenerationRequest, Priority, SamplingParams

_NUMBERS = itertools.count()


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountedMemory:
    """A KV memory without sharing: a job takes as many cells as it has tokens, and headroom."""

    def __init__(self, n_cells: int = 10**9) -> None:
        self.n_cells = n_cells
        self.held: dict[int, int] = {}

    @property
    def free(self) -> int:
        return self.n_cells - sum(self.held.values())

    def make_room_for(self, job: Job, headroom: int, *, must_fit: bool) -> bool:
        return not must_fit or self.free >= len(job.tokens) + headroom

    def fits_without(self, others: Iterable[Job], job: Job, headroom: int) -> bool:
        leaving = sum(self.held[other.seq_id] for other in others if other.seq_id is not None)
        return self.free + leaving >= len(job.tokens) + headroom

    def enter(self, job: Job, *_others: object) -> None:
        job.seq_id = next(_NUMBERS)
        self.held[job.seq_id] = len(job.tokens)

    def leave(self, job: Job, *, keep: bool) -> None:
        del keep
        assert job.seq_id is not None
        del self.held[job.seq_id]
        job.seq_id = None


def make_job(
    clock: Clock,
    priority: Priority = "interactive",
    *,
    n_tokens: int = 10,
    max_tokens: int = 10,
    timeout_s: float | None = None,
    first_token_s: float | None = None,
) -> Job:
    """Return a job that was submitted just now."""
    channel: Any = None  # nothing is delivered here
    job = Job(
        GenerationRequest(
            request_id=f"r{next(_NUMBERS)}",
            prompt="x",
            sampling=SamplingParams(max_tokens=max_tokens),
            priority=priority,
        ),
        (1,) * n_tokens,
        echo_text="",
        grammar=None,
        channel=channel,
        n_ctx=100_000,
    )
    job.submitted_at = job.seated_at = clock.now
    job.deadline = None if timeout_s is None else clock.now + timeout_s
    job.first_token_deadline = None if first_token_s is None else clock.now + first_token_s
    return job


def make_seats(clock: Clock, n_slots: int, n_cells: int = 10**9) -> Seats:
    """Return empty seats over a counted memory."""
    memory: Any = CountedMemory(n_cells)  # the part of `Sharing` that admission uses
    return Seats(memory, n_slots, clock=clock)
