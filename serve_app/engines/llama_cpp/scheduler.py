"""Who is computed next: admission, and what goes into a batch.

Pure bookkeeping; the engine thread owns it and does the decoding.
"""

from typing import NamedTuple

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.seats import Seats
from serve_app.engines.llama_cpp.sharing import Sharing


class Part(NamedTuple):
    """A job's share of a batch."""

    job: Job
    n_tokens: int
    n_outputs: int


class Scheduler:
    """Waiting and running jobs of one context.

    Args:
        sharing: Gives jobs their KV memory.
        n_slots: Jobs that run together.
        n_batch: Rows per batch.
        n_outputs: Rows with logits per batch, at least `n_slots`.
    """

    def __init__(self, sharing: Sharing, *, n_slots: int, n_batch: int, n_outputs: int) -> None:
        self.seats = Seats(sharing, n_slots)
        self.waiting = self.seats.waiting
        self.running = self.seats.running
        self._sharing = sharing
        self._n_batch = n_batch
        self._n_outputs = n_outputs

    def admit(self) -> None:
        """Give free slots, and those of lesser jobs, to jobs that wait, as KV memory allows."""
        self.seats.admit()

    def plan(self, prefill_rows: int) -> list[Part]:
        """Choose the rows of the next batch: one for each decoding job, then prefill.

        Args:
            prefill_rows: Rows that prompts may take in this step.
        """
        self._sharing.resume(self.running)
        parts: list[Part] = []
        rows, outputs = self._n_batch, self._n_outputs
        for job in sorted(self.running, key=lambda job: not job.is_decoding):
            limit = rows if job.is_decoding else min(rows, prefill_rows)
            part = _part(job, limit, outputs)
            if part is None:
                continue
            rows -= part.n_tokens
            outputs -= part.n_outputs
            if not job.is_decoding:
                prefill_rows -= part.n_tokens
            parts.append(part)
        return self._fit(parts)

    def retire(self, job: Job, *, keep: bool) -> None:
        """Take a job out, wherever it is.

        Args:
            job: Waiting or running.
            keep: Leave its KV memory to the prefix cache.
        """
        self.seats.leave(job, keep=keep)
        job.close()

    def relieve(self) -> bool:
        """Make room after llama.cpp found none: evict, else preempt; False if nothing is left."""
        if self._sharing.evict():
            return True
        if len(self.running) < 2:
            return False
        self.seats.preempt(self.seats.last())
        return True

    def _fit(self, parts: list[Part]) -> list[Part]:
        # Jobs are admitted with some headroom, not with their longest possible answer. When cells
        # run out nonetheless, a job goes back to the line: of the least class, the newest.
        while not self._sharing.make_room(sum(part.n_tokens for part in parts)):
            victim = self.seats.last()
            self.seats.preempt(victim)
            parts = [part for part in parts if part.job is not victim]
        return parts


def _part(job: Job, rows: int, outputs: int) -> Part | None:
    n = min(job.n_pending, rows)
    if job.leader is not None or n <= 0:
        return None
    if job.wants_prompt_logprobs and job.n_past < job.n_prompt:
        n = min(n, outputs)
        return Part(job, n, n) if n else None
    last = n == job.n_pending
    if last and not outputs:
        return None
    return Part(job, n, 1 if last else 0)
