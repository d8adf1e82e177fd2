"""The line of requests that wait for a slot: by class, then by urgency, and nobody for ever.

Classes are strict: `interactive` before `batch` before `background`. So that strictness starves
nobody, a class that has waited for its patience without holding a single slot sends its first job
to the front, and that one keeps its slot to its end. Within a class the earliest deadline goes
first; a job without one, or with a late one, counts as due `HORIZON_S` after it came, so who comes
later than that cannot go before it.

Hence the bound: a class with work is never without a slot for longer than its patience and the
time until a slot is free. Its k-th job waits k times that and k services at most, where those that
may go before it are the ones that came earlier than `HORIZON_S` after it.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.protocol import PRIORITIES, Priority

HORIZON_S: Final = 120.0
"""Furthest that a deadline can put a job behind later ones of its class."""
PATIENCE_S: Final[dict[Priority, float]] = {"interactive": 0.0, "batch": 30.0, "background": 120.0}
"""Seconds without a slot after which a class is let in once, whoever else waits."""
RANK: Final[dict[Priority, int]] = {name: rank for rank, name in enumerate(PRIORITIES)}
"""0 is the class that goes first."""


class WaitingLine:
    """Jobs that wait, new ones and preempted ones.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[Priority, list[Job]] = {name: [] for name in PRIORITIES}
        self._n_seated: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self._unserved_since: dict[Priority, float] = dict.fromkeys(PRIORITIES, 0.0)

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._jobs.values())

    def __iter__(self) -> Iterator[Job]:
        for jobs in self._jobs.values():
            yield from jobs

    def __contains__(self, job: Job) -> bool:
        return job in self._jobs[job.priority]

    def count(self, priority: Priority) -> int:
        """Return how many jobs of a class wait."""
        return len(self._jobs[priority])

    def add(self, job: Job) -> None:
        """Let a job wait. One that was preempted goes before the new ones of its class."""
        jobs = self._jobs[job.priority]
        if not jobs:
            self._unserved_since[job.priority] = self._clock()
        jobs.append(job)
        jobs.sort(key=_urgency)

    def remove(self, job: Job) -> None:
        """Take a job out that waits no longer."""
        self._jobs[job.priority].remove(job)

    def seat(self, job: Job) -> None:
        """Take a job out that got a slot."""
        job.is_promoted = self.is_promoted(job)
        self.remove(job)
        self._n_seated[job.priority] += 1
        job.first_seated_at = job.first_seated_at or self._clock()

    def unseat(self, job: Job) -> None:
        """Note that a job gave its slot back."""
        self._n_seated[job.priority] -= 1
        self._unserved_since[job.priority] = self._clock()

    def in_order(self) -> list[Job]:
        """Return the jobs in the order in which they may go."""
        order = [job for jobs in self._jobs.values() for job in jobs]
        for name in reversed(PRIORITIES):
            jobs = self._jobs[name]
            if jobs and self.is_promoted(jobs[0]):
                order.remove(jobs[0])
                order.insert(0, jobs[0])
        return order

    def is_promoted(self, job: Job) -> bool:
        """Whether a waiting job goes first because its class has waited for its patience."""
        name = job.priority
        if RANK[name] == 0 or self._n_seated[name] or self._jobs[name][:1] != [job]:
            return False
        return self._clock() - self._unserved_since[name] >= PATIENCE_S[name]


def _urgency(job: Job) -> tuple[bool, float, float]:
    horizon = job.submitted_at + HORIZON_S
    due = horizon if job.due is None else min(job.due, horizon)
    return (not job.n_preemptions, due, job.submitted_at)
