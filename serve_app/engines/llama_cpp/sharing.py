"""What a job need not compute: prefixes that exist already, or that another job is computing.

Owns the KV memory of running jobs: a job gets its sequence here and gives it back here.
"""

from collections.abc import Iterable

import numpy as np

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.prefix_cache import PrefixCache, common_prefix

_MIN_SHARED = 8
"""Shorter common starts are not worth a pass over the cells."""
_MIN_WAIT = 32
"""Tokens a running prefill must add to the best kept prefix for a job to wait for it."""


class Sharing:
    """Gives jobs their sequences, with as much of them filled as can be shared.

    Args:
        pool: KV cells and sequence ids.
        cache: Finished sequences.
    """

    def __init__(self, pool: KvPool, cache: PrefixCache) -> None:
        self._pool = pool
        self._cache = cache

    def make_room_for(self, job: Job, headroom: int, *, must_fit: bool) -> bool:
        """Evict until a job has the cells and the sequence id that it needs; False if it cannot.

        Args:
            job: Waiting.
            headroom: Cells besides those of its tokens.
            must_fit: Without it a job is let in whatever the cells say, for it runs alone.
        """
        source = self._cache.best(np.array(job.tokens, dtype=np.int32), salt=job.cache_salt)
        need = len(job.tokens) - source.n_tokens + headroom
        if must_fit and self._pool.n_cells - self._pool.active < need:
            return False  # not even with everything evicted
        if not self.make_room(need, but=source.seq_id) and must_fit:
            return False
        return self._pool.has_free_sequence or self._cache.evict(but=source.seq_id)

    def fits_without(self, others: Iterable[Job], job: Job, headroom: int) -> bool:
        """Whether a job would find room once some running ones have gone."""
        source = self._cache.best(np.array(job.tokens, dtype=np.int32), salt=job.cache_salt)
        need = len(job.tokens) - source.n_tokens + headroom
        leaving = [other.seq_id for other in others if other.seq_id is not None]
        staying = self._pool.active - self._pool.held_only_by(leaving)
        return self._pool.n_cells - staying >= need

    def make_room(self, n_cells: int, *, but: int | None = None) -> bool:
        """Evict until so many cells are free; False if there is nothing left to evict."""
        while self._pool.free < n_cells:
            if not self._cache.evict(but=but):
                return False
        return True

    def evict(self) -> bool:
        """Give up some kept KV memory; False if there is none."""
        return self._cache.evict()

    def enter(self, job: Job, running: Iterable[Job]) -> None:
        """Give a job its sequence; `make_room_for` has said that there is one."""
        job.seq_id = self._pool.acquire()
        self.begin(job, running)

    def begin(self, job: Job, running: Iterable[Job]) -> None:
        """Share the longest start that is computed already, or wait for one that is under way."""
        job.leader = None
        if job.seq_id is None or not self._cache.enabled or job.wants_prompt_logprobs:
            return
        tokens = np.array(job.tokens[:-1], dtype=np.int32)  # one row is needed for its logits
        source, n_shared = self._cache.best(tokens, salt=job.cache_salt)
        leader, n_leader = None, 0
        for other in running:
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
            if len(job.tokens) == job.n_prompt and not job.n_preemptions:
                job.answer.cached_tokens = n_shared

    def resume(self, running: Iterable[Job]) -> None:
        """Let jobs go on whose leader has computed what they waited for, or has gone."""
        for job in running:
            if job.leader is not None and _is_done(job.leader, job.leader_tokens):
                self.begin(job, running)

    def leave(self, job: Job, *, keep: bool) -> None:
        """Take a job's sequence back.

        Args:
            job: Running, or waiting without a sequence.
            keep: Leave its KV memory to later jobs.
        """
        if job.seq_id is None:
            return
        if keep:
            self._cache.keep(job.seq_id, job.tokens[: job.n_past], salt=job.cache_salt)
        else:
            self._pool.release(job.seq_id)
        job.seq_id = None


def _is_done(leader: Job, n_tokens: int) -> bool:
    return leader.seq_id is None or leader.n_past >= n_tokens
