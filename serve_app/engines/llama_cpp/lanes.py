"""Several contexts over one model, one for each adapter, turned by one thread.

llama.cpp applies an adapter to a whole context, and KV memory that was computed under one is wrong
under another. So each adapter has a lane: a context, its KV memory, its prefixes and its line. The
weights are there once. Lanes are turned one after another and never at the same time, as two
decodes at once would fight for the same cores.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.stepper import Stepper
from serve_app.engines.llama_cpp.waiting import RANK
from serve_app.engines.protocol import EngineStats

_LESSER_EVERY = 4
"""Rounds of which a lane takes one, while another lane has work of a higher class."""


class Lanes:
    """Steppers by adapter; to the engine's loop they are one. Only the engine thread uses it.

    Args:
        steppers: One for each adapter, and under None the base's, if it answers too.
    """

    def __init__(self, steppers: Mapping[str | None, Stepper]) -> None:
        self.steppers = dict(steppers)
        self._rounds = 0

    def __contains__(self, adapter: object) -> bool:
        return adapter in self.steppers

    def __iter__(self) -> Iterator[Stepper]:
        return iter(self.steppers.values())

    @property
    def names(self) -> list[str]:
        """Names of the adapters, without the base."""
        return sorted(name for name in self.steppers if name is not None)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to compute."""
        return all(stepper.is_idle for stepper in self.steppers.values())

    def add(self, job: Job) -> None:
        """Queue a job in its lane."""
        self.steppers[job.adapter].add(job)

    def cancel(self, job: Job) -> None:
        """Drop a job, wherever it is; nothing happens if it has ended."""
        self.steppers[job.adapter].cancel(job)

    def turn(self) -> None:
        """Let every lane that has work take a step.

        A lane whose work is all of a lesser class than another lane's takes fewer: its steps would
        cost users as much as if it held their slots.
        """
        busy = [stepper for stepper in self.steppers.values() if not stepper.is_idle]
        if not busy:
            return
        ranks = [_rank(stepper) for stepper in busy]
        first = min(ranks)
        self._rounds += 1
        for stepper, rank in zip(busy, ranks, strict=True):
            if rank == first or self._rounds % _LESSER_EVERY == 0:
                stepper.turn()

    def end(self, jobs: list[Job], reason: str) -> None:
        """Fail all jobs, and some that were never added; free the contexts."""
        for adapter, stepper in self.steppers.items():
            stepper.end([job for job in jobs if job.adapter == adapter], reason)


def _rank(stepper: Stepper) -> int:
    """Return the highest class that a lane has work of, 0 for users."""
    scheduler = stepper.scheduler
    return min(RANK[job.priority] for job in (*scheduler.running, *scheduler.waiting))


def total(stats: Iterable[EngineStats]) -> EngineStats:
    """Add up the counters and gauges of all lanes."""
    sums: dict[str, Any] = {}
    for one in stats:
        for field in fields(one):
            value = getattr(one, field.name)
            if isinstance(value, dict):
                known = sums.setdefault(field.name, {})
                sums[field.name] = {key: known.get(key, 0) + n for key, n in value.items()}
            else:
                sums[field.name] = sums.get(field.name, 0) + value
    return EngineStats(**sums)
