"""One step of the engine: decode a batch, sample, hand over, and clear up after failures."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.channel import Outbox
from serve_app.engines.llama_cpp.context import Context, Rows
from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.logprobs import token_logprob
from serve_app.engines.llama_cpp.pacing import PrefillPace
from serve_app.engines.llama_cpp.prefix_cache import PrefixCache
from serve_app.engines.llama_cpp.sampling import TokenSampler
from serve_app.engines.llama_cpp.scheduler import Part, Scheduler
from serve_app.engines.llama_cpp.sharing import Sharing
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.engines.protocol import FinishReason
from serve_app.errors import DeadlineExceeded, EngineFailed, Overloaded, RequestError

logger = logging.getLogger(__name__)

_MAX_FAILED_STEPS = 8
"""Steps in a row in which nothing could be computed, after which the engine gives up."""
_JUDGE_S = 0.1
"""Pause between two looks for requests that cannot meet their deadline."""
_NO_KV = 1


@dataclass(slots=True)
class Counters:
    """Totals since the start; written by the engine thread, read by anyone."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    cancelled: int = 0
    refused_late: int = 0


class Stepper:
    """Jobs and the context that computes them. Only the engine thread uses it.

    Args:
        context: Closed by this object.
        vocabulary: Tokens of the model.
        n_slots: Jobs that run together.
        n_ctx: Longest sequence, in tokens.
        n_kept: Finished sequences kept for their prefixes.
        on_done: Called once per job that has left.
    """

    def __init__(
        self,
        context: Context,
        vocabulary: Vocabulary,
        *,
        n_slots: int,
        n_ctx: int,
        n_kept: int,
        on_done: Callable[[Job], None],
    ) -> None:
        self.counters = Counters()
        self.context = context
        self.pool = KvPool(
            context, n_cells=context.n_cells, n_sequences=context.n_sequences, n_ctx=n_ctx
        )
        self.scheduler = Scheduler(
            Sharing(self.pool, PrefixCache(self.pool, n_kept)),
            n_slots=n_slots,
            n_batch=context.n_batch,
            n_outputs=context.n_outputs,
        )
        self._vocabulary = vocabulary
        self._n_ctx = n_ctx
        self._on_done = on_done
        self._pace = PrefillPace(context.n_batch)
        self._outbox = Outbox()
        self._n_failed_steps = 0
        self._judged_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.scheduler.running and not self.scheduler.waiting

    def add(self, job: Job) -> None:
        """Queue a job."""
        self.scheduler.waiting.add(job)

    def cancel(self, job: Job) -> None:
        """Drop a job, wherever it is; nothing happens if it has ended."""
        if job in self.scheduler.running or job in self.scheduler.waiting:
            self.counters.cancelled += 1
            self._leave(job, keep=False)

    def turn(self) -> None:
        """Drop what is late, admit, compute one batch, deliver."""
        self._expire()
        self.scheduler.admit()
        self._step()
        self._deliver()

    def end(self, jobs: list[Job], reason: str) -> None:
        """Fail all jobs, and some that were never added; free the context."""
        for job in self._jobs() + jobs:
            self._outbox.put(job.channel, EngineFailed(reason))
            job.close()
            self._on_done(job)
        self._outbox.flush()
        self.context.close()

    def _expire(self) -> None:
        now = time.monotonic()
        for job in self._jobs():
            if job.due is not None and job.due < now:
                begun = len(job.tokens) > job.n_prompt
                missing = "complete answer" if begun else "token"
                waited = now - job.submitted_at
                self._fail(job, DeadlineExceeded(f"no {missing} after {waited:.1f} s"))
        if now >= self._judged_at + _JUDGE_S and len(self.scheduler.waiting):
            self._judged_at = now
            self._refuse_hopeless(now)

    def _refuse_hopeless(self, now: float) -> None:
        # What will be late is better refused while its client can still go elsewhere.
        for job, wait_s in self.scheduler.seats.hopeless():
            left_s = max(0.0, (job.due or now) - now)
            reason = (
                f"the wait for a slot is {wait_s:.1f} s at least, the deadline in {left_s:.1f} s"
            )
            self.counters.refused_late += 1
            if job.n_preemptions:
                self._fail(job, DeadlineExceeded(reason, None, wait_s))
            else:
                self._fail(job, Overloaded(reason, None, wait_s))

    def _step(self) -> None:
        parts = self.scheduler.plan(self._pace.rows)
        if not parts:
            return
        started = time.monotonic()
        code = self.context.decode([_rows(part) for part in parts])
        if code == _NO_KV and self.scheduler.relieve():
            return  # memory is as it was: the next plan is smaller
        if code != 0:
            self._recover(parts, code)
            return
        self._n_failed_steps = 0
        n_rows = sum(part.n_tokens for part in parts)
        self._pace.record(n_rows, time.monotonic() - started)
        self.counters.steps += 1
        self.counters.step_rows += n_rows
        self._take(parts)

    def _recover(self, parts: list[Part], code: int) -> None:
        # A failed batch says nothing about which of its jobs is at fault, so each is tried alone.
        logger.error("llama_decode returned %s for %s jobs", code, len(parts))
        self._n_failed_steps += 1
        if self._n_failed_steps >= _MAX_FAILED_STEPS:
            raise RuntimeError(f"llama_decode failed {self._n_failed_steps} times in a row: {code}")
        for part in parts:
            self._resync(part.job)
        for part in parts:
            part = part._replace(n_tokens=min(part.n_tokens, part.job.n_pending))
            if len(parts) > 1 and self.context.decode([_rows(part)]) == 0:
                self._n_failed_steps = 0
                self._take([part])
                continue
            self._resync(part.job)
            self._fail(part.job, EngineFailed("the model could not compute this request"))

    def _resync(self, job: Job) -> None:
        if job.seq_id is not None:
            job.n_past = self.pool.resync(job.seq_id)

    def _take(self, parts: list[Part]) -> None:
        n_outputs = sum(part.n_outputs for part in parts)
        logits = self.context.logits(n_outputs) if n_outputs else None
        row = output = 0
        for part in parts:
            job = part.job
            if job.seq_id is not None:
                self.pool.grew(job.seq_id, part.n_tokens)
            first = job.n_past
            job.n_past += part.n_tokens
            row += part.n_tokens
            if logits is not None and part.n_outputs:
                block = logits[output : output + part.n_outputs]
                output += part.n_outputs
                try:
                    self._read(job, first + part.n_tokens - part.n_outputs, block, row - 1)
                except EngineFailed as error:
                    self._fail(job, error)
                except Exception:  # one request's fault must not end the others
                    logger.exception("request %s failed", job.request_id)
                    self._fail(job, EngineFailed("the engine failed on this request"))

    def _read(self, job: Job, position: int, logits: NDArray[np.float32], row: int) -> None:
        # `logits` are those of the positions from `position` on; `row` is the last one's index.
        if job.wants_prompt_logprobs:
            self._read_prompt(job, position, logits)
        if job.n_pending:
            return
        if len(job.tokens) == job.n_prompt:
            self.counters.prompt_tokens += job.n_prompt
            self.counters.cached_tokens += job.answer.cached_tokens
        if len(job.tokens) >= job.max_length:  # nothing to generate
            self._finish(job, "length")
        else:
            self._sample(job, logits[-1], row)

    def _read_prompt(self, job: Job, position: int, logits: NDArray[np.float32]) -> None:
        done = job.answer.prompt_logprobs
        for at, row in enumerate(logits, start=position + 1):
            if at < job.n_prompt and at == len(done):
                n_top = job.params.logprobs or 0
                done.append(token_logprob(row, job.tokens[at], n_top, self._vocabulary))

    def _sample(self, job: Job, logits: NDArray[np.float32], row: int) -> None:
        if not math.isfinite(float(logits.max())):
            raise EngineFailed("the model computed numbers that are not finite")
        if job.sampler is None:
            job.sampler = TokenSampler(
                job.params,
                n_vocab=self._vocabulary.n_tokens,
                n_ctx=self._n_ctx,
                grammar=job.grammar.start() if job.grammar else None,
            )
        token = job.sampler.sample(self.context.handle, row, logits)
        if token is None:
            raise EngineFailed("no token of this model continues the JSON answer")
        if token in self._vocabulary.eog:
            self._finish(job, "stop")
            return
        logprob = None
        if job.params.logprobs is not None:
            logprob = token_logprob(logits, token, job.params.logprobs, self._vocabulary)
        job.tokens.append(token)
        self.counters.completion_tokens += 1
        chunk = job.answer.add(self._vocabulary.pieces[token], logprob)
        if chunk is not None:
            self._outbox.put(job.channel, chunk)
            if chunk.finish_reason is not None:
                self._leave(job, keep=True)
                return
        if job.sampler.grammar is not None and job.sampler.grammar.complete:
            self._finish(job, "stop")
        elif len(job.tokens) >= job.max_length:
            self._finish(job, "length")

    def _finish(self, job: Job, reason: FinishReason) -> None:
        self._outbox.put(job.channel, job.answer.end(reason))
        self._leave(job, keep=True)

    def _fail(self, job: Job, error: RequestError) -> None:
        self._outbox.put(job.channel, error)
        self._leave(job, keep=False)

    def _leave(self, job: Job, *, keep: bool) -> None:
        self.scheduler.retire(job, keep=keep)
        self._on_done(job)

    def _deliver(self) -> None:
        lost = set(self._outbox.flush())
        if lost:
            for job in self._jobs():
                if job.channel in lost:
                    self.cancel(job)

    def _jobs(self) -> list[Job]:
        return [*self.scheduler.waiting, *self.scheduler.running]


def _rows(part: Part) -> Rows:
    job = part.job
    assert job.seq_id is not None  # noqa: S101 (only running jobs are planned)
    tokens = job.tokens[job.n_past : job.n_past + part.n_tokens]
    return Rows(job.seq_id, job.n_past, tokens, part.n_outputs)
