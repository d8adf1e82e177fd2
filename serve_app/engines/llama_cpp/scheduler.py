"""Who is computed next: admission, sharing of prefixes, and what goes into a batch.

Pure bookkeeping over `KvPool` and `PrefixCache`; the engine thread owns it and does the decoding.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.prefix_cache import PrefixCache, common_prefix

_MIN_SHARED = 8
"""Shorter common starts are not worth a pass over the cells."""
_MIN_WAIT = 32
"""Tokens a running prefill must add to the best kept prefix for a job to wait for it."""
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
        pool: KV cells and sequence ids.
        cache: Finished sequences.
        n_slots: Jobs that run together.
        n_batch: Rows per batch.
        n_outputs: Rows with logits per batch, at least `n_slots`.
    """

    def __init__(
        self, pool: KvPool, cache: PrefixCache, *, n_slots: int, n_batch: int, n_outputs: int
    ) -> None:
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._pool = pool
        self._cache = cache
        self._n_slots = n_slots
        self._n_batch = n_batch
        self._n_outputs = n_outputs

    def admit(self) -> None:
        """Move waiting jobs, first come first served, into free slots as KV memory allows."""
        while self.waiting and len(self.running) < self._n_slots:
            job = self.waiting[0]
            room = min(job.max_length - len(job.tokens), _HEADROOM_TOKENS)
            source = self._cache.best(np.array(job.tokens, dtype=np.int32), salt=job.cache_salt)
            need = len(job.tokens) - source.n_tokens + room
            if self.running and self._pool.n_cells - self._pool.active < need:
                return  # not even with everything evicted
            if not self._make_room(need, but=source.seq_id) and self.running:
                return
            if not self._pool.has_free_sequence and not self._cache.evict(but=source.seq_id):
                return
            self.waiting.popleft()
            job.seq_id = self._pool.acquire()
            self.running.append(job)
            self._begin(job)

    def plan(self, prefill_rows: int) -> list[Part]:
        """Choose the rows of the next batch: one for each decoding job, then prefill.

        Args:
            prefill_rows: Rows that prompts may take in this step.
        """
        for job in self.running:
            if job.leader is not None and self._leader_is_done(job):
                self._begin(job)
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
            if keep:
                self._cache.keep(job.seq_id, job.tokens[: job.n_past], salt=job.cache_salt)
            else:
                self._pool.release(job.seq_id)
            job.seq_id = None
        job.close()

    def relieve(self) -> bool:
        """Make room after llama.cpp found none: evict, else preempt; False if nothing is left."""
        if self._cache.evict():
            return True
        if len(self.running) < 2:
            return False
        self._preempt(self.running[-1])
        return True

    def _begin(self, job: Job) -> None:
        # Share the longest start that is computed already, or wait for one that is under way.
        job.leader = None
        if job.seq_id is None or not self._cache.enabled or job.wants_prompt_logprobs:
            return
        tokens = np.array(job.tokens[:-1], dtype=np.int32)  # one row is needed for its logits
        source, n_shared = self._cache.best(tokens, salt=job.cache_salt)
        leader, n_leader = None, 0
        for other in self.running:
            if other is job or other.leader is not None or other.wants_prompt_logprobs:
                continue
            if other.cache_salt != job.cache_salt:
                continue
            n = common_prefix(tokens, np.array(other.tokens, dtype=np.int32))
            if min(n, other.n_past) > n_shared:
                source, n_shared = other.seq_id, min(n, other.n_past)
            if n > n_leader:
                leader, n_leader = other, n
        if leader is not None and n_leader - n_shared >= _MIN_WAIT:
            job.leader, job.leader_tokens = leader, n_leader
            return
        if source is not None and n_shared >= _MIN_SHARED:
            self._pool.share(source, job.seq_id, n_shared)
            job.n_past = n_shared
            if len(job.tokens) == job.n_prompt:  # not after a preemption
                job.answer.cached_tokens = n_shared

    def _leader_is_done(self, job: Job) -> bool:
        leader = job.leader
        return leader is None or leader.seq_id is None or leader.n_past >= job.leader_tokens

    def _make_room(self, n_cells: int, *, but: int | None = None) -> bool:
        while self._pool.free < n_cells:
            if not self._cache.evict(but=but):
                return False
        return True

    def _fit(self, parts: list[Part]) -> list[Part]:
        # Jobs are admitted with some headroom, not with their longest possible answer. When cells
        # run out nonetheless, the newest job goes back to the queue: it has lost the least.
        while not self._make_room(sum(part.n_tokens for part in parts)):
            victim = self.running[-1]
            self._preempt(victim)
            parts = [part for part in parts if part.job is not victim]
        return parts

    def _preempt(self, job: Job) -> None:
        self.running.remove(job)
        if job.seq_id is not None:
            self._pool.release(job.seq_id)
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
