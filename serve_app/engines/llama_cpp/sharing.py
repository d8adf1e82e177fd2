"""What a job need not compute: prefixes that exist already, or that another job is computing.

Owns the KV memory of running jobs: a job gets its sequence here and gives it back here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.prefix_cache import NOTHING, Match, PrefixCache
from serve_app.engines.llama_cpp.radix import Tokens

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
        self._jobs: dict[int, Job] = {}
        """Running jobs whose prompts others may share, by their sequence."""

    def make_room_for(self, job: Job, headroom: int, *, must_fit: bool) -> bool:
        """Evict until a job has the cells and the sequence id that it needs; False if it cannot.

        Args:
            job: Waiting.
            headroom: Cells besides those of its tokens.
            must_fit: Without it a job is let in whatever the cells say, for it runs alone.
        """
        match = self._best(job)
        need = self._need(job, match, headroom)
        if must_fit and self._pool.n_cells - self._pool.active < need.active:
            return False  # not even with everything evicted
        if not self._cache.make_room(need.free, but=match) and must_fit:
            return False
        return self._pool.has_free_sequence or self._cache.free_sequence(but=match)

    def fits_without(self, others: Iterable[Job], job: Job, headroom: int) -> bool:
        """Whether a job would find room once some running ones have gone."""
        need = self._need(job, self._best(job), headroom)
        leaving = [other.seq_id for other in others if other.seq_id is not None]
        staying = self._pool.active - self._pool.held_only_by(leaving)
        return self._pool.n_cells - staying >= need.active

    @property
    def max_length(self) -> int:
        """Longest that a sequence may be, in tokens."""
        return self._pool.max_length

    @property
    def free_cells(self) -> int:
        """Cells that can be had without sending a job away."""
        return self._pool.n_cells - self._pool.active

    def make_room(self, n_cells: int) -> bool:
        """Evict until so many cells are free; False if there is nothing left to evict."""
        return self._cache.make_room(n_cells)

    def evict(self) -> bool:
        """Give up some kept KV memory; False if there is none."""
        return self._cache.evict()

    def enter(self, job: Job) -> None:
        """Give a job its sequence; `make_room_for` has said that there is one."""
        job.seq_id = self._pool.acquire()
        if self._shares(job):
            tokens = np.array(job.tokens, dtype=np.int32)
            self._cache.announce(job.seq_id, tokens, salt=job.cache_salt)
            self._jobs[job.seq_id] = job
            self._begin(job)

    def resume(self, running: Iterable[Job]) -> None:
        """Let jobs go on whose leader has computed what they waited for, or has gone."""
        for job in running:
            if job.leader is not None and _is_done(job.leader, job.leader_tokens):
                self._begin(job)

    def leave(self, job: Job, *, keep: bool) -> None:
        """Take a job's sequence back.

        Args:
            job: Running, or waiting without a sequence.
            keep: Leave its KV memory to later jobs.
        """
        if job.seq_id is None:
            return
        self._jobs.pop(job.seq_id, None)
        if keep:
            self._cache.keep(job.seq_id, job.tokens[: job.n_past], salt=job.cache_salt)
        else:
            self._cache.drop(job.seq_id)
        job.seq_id = None

    def _begin(self, job: Job) -> None:
        # Share the longest start that is computed already, or wait for one that is under way.
        job.leader = None
        if job.seq_id is None:
            return
        match = self._best(job)
        leader = self._leader(job, at_least=match.n_tokens + _MIN_WAIT)
        if leader is not None:
            job.leader, job.leader_tokens = leader
            return
        if match.seq_id is not None and match.n_tokens >= _MIN_SHARED:
            self._pool.share(match.seq_id, job.seq_id, match.n_tokens)
            job.n_past = match.n_tokens
            if len(job.tokens) == job.n_prompt and not job.n_preemptions:
                job.answer.cached_tokens = match.n_tokens

    def _leader(self, job: Job, *, at_least: int) -> tuple[Job, int] | None:
        # Who computes the longest start in common, and how much that is. One that waits itself is
        # no leader: when it goes on, those behind it choose again.
        for n_tokens, holders in self._cache.sharers(_shareable(job), salt=job.cache_salt):
            if n_tokens < at_least:
                break
            others = [self._jobs[seq_id] for seq_id in holders if seq_id in self._jobs]
            leaders = [other for other in others if other is not job and other.leader is None]
            if leaders:
                return max(leaders, key=lambda other: other.n_past), n_tokens
        return None

    def _best(self, job: Job) -> Match:
        if not self._shares(job):
            return NOTHING
        return self._cache.best(_shareable(job), salt=job.cache_salt)

    def _need(self, job: Job, match: Match, headroom: int) -> "_Need":
        free = len(job.tokens) - match.n_tokens + headroom
        if match.seq_id is None:
            return _Need(free, free)
        return _Need(free, free + self._pool.inactive(match.seq_id, match.n_tokens))

    def _shares(self, job: Job) -> bool:
        return self._cache.enabled and not job.wants_prompt_logprobs


class _Need(NamedTuple):
    """What a job asks of KV memory."""

    free: int
    """Cells that it is going to fill."""
    active: int
    """Cells that nobody can evict any more once it runs: also what it wakes of a kept sequence."""


def _shareable(job: Job) -> Tokens:
    return np.array(job.tokens[:-1], dtype=np.int32)  # one row is needed for its logits


def _is_done(leader: Job, n_tokens: int) -> bool:
    return leader.seq_id is None or leader.n_past >= n_tokens
