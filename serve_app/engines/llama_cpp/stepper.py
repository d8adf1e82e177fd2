"""One step of the engine: decode a batch, sample, hand over, and clear up after failures."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.answer_memory import AnswerMemory, Recall
from serve_app.engines.llama_cpp.channel import Outbox
from serve_app.engines.llama_cpp.context import Context, Rows
from serve_app.engines.llama_cpp.drafts import GUESS_SOURCES, Draft, Lookup
from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.logprobs import token_logprob
from serve_app.engines.llama_cpp.prefix_cache import PrefixCache
from serve_app.engines.llama_cpp.row_costs import RowCosts, calibrate
from serve_app.engines.llama_cpp.scheduler import ALL_TRICKS, Part, Scheduler, Tricks
from serve_app.engines.llama_cpp.sharing import Sharing
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.engines.llama_cpp.writing import Writer
from serve_app.engines.protocol import FinishReason
from serve_app.errors import DeadlineExceeded, EngineFailed, Overloaded, RequestError

logger = logging.getLogger(__name__)

_MAX_FAILED_STEPS = 8
"""Steps in a row in which nothing could be computed, after which the engine gives up."""
_JUDGE_S = 0.1
"""Pause between two looks for requests that cannot meet their deadline."""
_NO_KV = 1
_CALIBRATION_S = 3.0
"""Time at load for learning what batches cost."""


@dataclass(slots=True)
class Counters:
    """Totals since the start; written by the engine thread, read by anyone."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    cancelled: int = 0
    forced_tokens: int = 0
    refused_late: int = 0
    guessed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GUESS_SOURCES, 0))
    """Tokens computed on suspicion, by source."""
    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GUESS_SOURCES, 0))


class Stepper:
    """Jobs and the context that computes them. Only the engine thread uses it.

    Args:
        context: Closed by this object.
        vocabulary: Tokens of the model.
        n_slots: Jobs that run together.
        n_ctx: Longest sequence, in tokens.
        n_kept: Finished sequences kept for their prefixes.
        on_done: Called once per job that has left.
        tricks: What batches may do beside the plain thing.
        pause_s: Seconds between two hand-overs of streamed text, at least.
        memory: Earlier answers to guess from; None guesses from none.
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
        tricks: Tricks = ALL_TRICKS,
        pause_s: float = 0.0,
        memory: AnswerMemory | None = None,
    ) -> None:
        self.counters = Counters()
        self.context = context
        self.costs = RowCosts()
        self.pool = KvPool(
            context, n_cells=context.n_cells, n_sequences=context.n_sequences, n_ctx=n_ctx
        )
        self.prefixes = PrefixCache(self.pool, n_kept)
        self.scheduler = Scheduler(
            Sharing(self.pool, self.prefixes),
            n_slots=n_slots,
            n_batch=context.n_batch,
            n_outputs=context.n_outputs,
            costs=self.costs,
            tricks=tricks,
        )
        self._tricks = tricks
        self._memory = memory
        self._vocabulary = vocabulary
        self._on_done = on_done
        self._outbox = Outbox(pause_s)
        self._writer = Writer(context, vocabulary, self._outbox, n_ctx=n_ctx)
        self._n_failed_steps = 0
        self._judged_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.scheduler.running and not self.scheduler.waiting

    def calibrate(self) -> None:
        """Learn what batches cost. Call it before the first job; it takes some three seconds."""
        calibrate(
            self.costs,
            self._time_step,
            max_rows=min(self.context.n_batch, self.context.n_outputs, self.pool.n_cells),
            budget_s=_CALIBRATION_S,
        )

    def _time_step(self, n_rows: int) -> float:
        started = time.monotonic()
        code = self.context.decode([Rows(0, 0, [0] * n_rows, n_rows)])
        seconds = time.monotonic() - started
        self.context.cut(0, 0)
        if code != 0:
            raise EngineFailed(f"the model computes nothing: llama_decode returned {code}")
        return seconds

    def add(self, job: Job) -> None:
        """Queue a job."""
        if self._memory is not None:
            job.tree = self._memory.tree(job.kind)
            forces = job.grammar is not None and job.params.logprobs is None
            job.sources.append(Recall(job.tree, job.n_prompt, forces=forces))
        if self._tricks.prompt_lookup and job.params.temperature == 0:
            job.sources.append(Lookup(job.tokens, job.max_length))
        self.scheduler.waiting.add(job)

    def cancel(self, job: Job) -> None:
        """Drop a job, wherever it is; nothing happens if it has ended."""
        if job in self.scheduler.running or job in self.scheduler.waiting:
            self.counters.cancelled += 1
            self._leave(job, keep=True)  # others may wait for just what it has computed

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
        parts = self.scheduler.plan()
        if not parts:
            return
        started = time.monotonic()
        code = self.context.decode([rows for part in parts for rows in _rows(part)])
        if code == _NO_KV and self.scheduler.relieve():
            return  # memory is as it was: the next plan is smaller
        if code != 0:
            self._recover(parts, code)
            return
        self._n_failed_steps = 0
        n_rows = sum(part.n_rows for part in parts)
        n_outputs = sum(part.n_outputs for part in parts)
        self.costs.record(n_rows, n_outputs, time.monotonic() - started)
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
            n_tokens = min(part.n_tokens, part.job.n_pending)
            part = Part(part.job, n_tokens, min(part.n_outputs - part.draft.n_outputs, n_tokens))
            if len(parts) > 1 and self.context.decode(_rows(part)) == 0:
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
                self.pool.grew(job.seq_id, part.n_rows)
            job.n_past += part.n_tokens
            first_output = row + part.n_tokens + part.draft.n_outputs - part.n_outputs
            row += part.n_rows
            block = None
            if logits is not None and part.n_outputs:
                block = logits[output : output + part.n_outputs]
                output += part.n_outputs
            try:
                self._read(part, block, first_output)
            except EngineFailed as error:
                self._fail(job, error)
            except Exception:  # one request's fault must not end the others
                logger.exception("request %s failed", job.request_id)
                self._fail(job, EngineFailed("the engine failed on this request"))

    def _read(self, part: Part, logits: NDArray[np.float32] | None, row: int) -> None:
        # `logits` are those of the part's rows from batch index `row` on.
        job = part.job
        reason: FinishReason | None = None
        if logits is not None:
            if job.wants_prompt_logprobs:
                self._read_prompt(job, job.n_past + part.draft.n_outputs - part.n_outputs, logits)
            if not job.n_pending:
                if len(job.tokens) == job.n_prompt:
                    self.counters.prompt_tokens += job.n_prompt
                    self.counters.cached_tokens += job.answer.cached_tokens
                begin = len(job.tokens)
                before = len(logits) - part.draft.n_outputs - 1
                written = self._writer.write(job, logits[before:], row + before, part.draft)
                reason = written.finish_reason
                self.counters.completion_tokens += len(job.tokens) - begin
                self.counters.forced_tokens += written.n_forced
                self._count_right(job, begin, part.draft)
        if part.n_guesses or part.n_blanks:
            self.pool.cut(_sequence(job), job.n_past)
        if reason is not None:
            if self._memory is not None:
                self._memory.add(job.kind, job.tokens[job.n_prompt :])
            self._leave(job, keep=True, answered=True)

    def _count_right(self, job: Job, start: int, draft: Draft) -> None:
        # Takes over the KV memory of the guesses that turned out right.
        guesses = draft.tokens
        if not guesses:
            return
        new = job.tokens[start:]
        n_right = 0
        while n_right < min(len(new), len(guesses)) and new[n_right] == guesses[n_right]:
            n_right += 1
        # The last token's own row may be there too; computing it again does no harm, its logits
        # being needed.
        job.n_past += min(n_right, max(0, len(new) - 1))
        self.counters.guessed[draft.source] += len(guesses)
        self.counters.right[draft.source] += n_right
        job.record(draft, n_right)

    def _read_prompt(self, job: Job, position: int, logits: NDArray[np.float32]) -> None:
        done = job.answer.prompt_logprobs
        for at, row in enumerate(logits, start=position + 1):
            if at < job.n_prompt and at == len(done):
                n_top = job.params.logprobs or 0
                done.append(token_logprob(row, job.tokens[at], n_top, self._vocabulary))

    def _fail(self, job: Job, error: RequestError) -> None:
        self._outbox.put(job.channel, error)
        self._leave(job, keep=False)

    def _leave(self, job: Job, *, keep: bool, answered: bool = False) -> None:
        self.scheduler.retire(job, keep=keep, answered=answered)
        self._on_done(job)

    def _deliver(self) -> None:
        lost = set(self._outbox.flush())
        if lost:
            for job in self._jobs():
                if job.channel in lost:
                    self.cancel(job)

    def _jobs(self) -> list[Job]:
        return [*self.scheduler.waiting, *self.scheduler.running]


def _rows(part: Part) -> list[Rows]:
    job = part.job
    tokens = [*job.tokens[job.n_past : job.n_past + part.n_tokens], *part.draft.tokens]
    quiet = tuple(part.n_tokens + place for place in part.draft.quiet)
    rows = [Rows(_sequence(job), job.n_past, tokens, part.n_outputs, quiet)]
    if part.n_blanks:
        start = job.n_past + len(tokens)
        rows.append(Rows(_sequence(job), start, [tokens[-1]] * part.n_blanks, 0))
    return rows


def _sequence(job: Job) -> int:
    assert job.seq_id is not None  # noqa: S101 (only running jobs are planned)
    return job.seq_id
