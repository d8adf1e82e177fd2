"""Who is computed next: admission, and what goes into a batch.

Pure bookkeeping; the engine thread owns it and does the decoding.
"""

from collections import deque
from typing import NamedTuple

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.sharing import Sharing

_HEADROOM_TOKENS = 128
"""KV cells for the answer that must be free before a job is admitted beside others."""


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
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._sharing = sharing
        self._n_slots = n_slots
        self._n_batch = n_batch
        self._n_outputs = n_outputs

    def admit(self) -> None:
        """Move waiting jobs, first come first served, into free slots as KV memory allows."""
        while self.waiting and len(self.running) < self._n_slots:
            job = self.waiting[0]
            room = min(job.max_length - len(job.tokens), _HEADROOM_TOKENS)
            if not self._sharing.make_room_for(job, room, must_fit=bool(self.running)):
                return
            self.waiting.popleft()
            self._sharing.enter(job, self.running)
            self.running.append(job)

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
        if job.seq_id is None:
            if job in self.waiting:
                self.waiting.remove(job)
        else:
            self.running.remove(job)
            self._sharing.leave(job, keep=keep)
        job.close()

    def relieve(self) -> bool:
        """Make room after llama.cpp found none: evict, else preempt; False if nothing is left."""
        if self._sharing.evict():
            return True
        if len(self.running) < 2:
            return False
        self._preempt(self.running[-1])
        return True

    def _fit(self, parts: list[Part]) -> list[Part]:
        # Jobs are admitted with some headroom, not with their longest possible answer. When cells
        # run out nonetheless, the newest job goes back to the queue: it has lost the least.
        while not self._sharing.make_room(sum(part.n_tokens for part in parts)):
            victim = self.running[-1]
            self._preempt(victim)
            parts = [part for part in parts if part.job is not victim]
        return parts

    def _preempt(self, job: Job) -> None:
        self.running.remove(job)
        self._sharing.leave(job, keep=False)
        job.to_waiting()
        self.waiting.appendleft(job)


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
