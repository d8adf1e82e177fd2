"""Who is computed next: admission, and what goes into a batch.

Pure bookkeeping; the engine thread owns it and does the decoding.
"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from serve_app.engines.llama_cpp import batching
from serve_app.engines.llama_cpp.drafts import NO_DRAFT, Draft
from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.row_costs import RowCosts
from serve_app.engines.llama_cpp.seats import Seats
from serve_app.engines.llama_cpp.sharing import Sharing

_PLAIN_EVERY = 32
"""One of so many batches has everybody's rows, and no others."""
_MAX_DRAFT = 64
"""Tokens guessed for one answer in one step."""


@dataclass(frozen=True, slots=True)
class Part:
    """A job's share of a batch: tokens that it has, guesses behind them, blanks behind those."""

    job: Job
    n_tokens: int
    n_outputs: int
    """Of the last tokens and guesses, how many get logits; quiet guesses get none."""
    draft: Draft = NO_DRAFT
    n_blanks: int = 0
    """Rows that are computed for nothing, because the step is faster with them."""

    @property
    def n_rows(self) -> int:
        """Rows of the batch that it takes."""
        return self.n_tokens + self.n_guesses + self.n_blanks

    @property
    def n_guesses(self) -> int:
        """Guessed tokens."""
        return len(self.draft.tokens)

    @property
    def length(self) -> int:
        """Length of the job's sequence once all these rows are computed."""
        return self.job.n_past + self.n_rows


class Tricks(NamedTuple):
    """What the batches and slots may do beside the plain thing."""

    packing: bool = True
    prompt_lookup: bool = True
    preemption: bool = True


ALL_TRICKS = Tricks()


class Scheduler:
    """Waiting and running jobs of one context.

    Args:
        sharing: Gives jobs their KV memory.
        n_slots: Jobs that run together.
        n_batch: Rows per batch.
        n_outputs: Rows with logits per batch, at least `n_slots`.
        costs: What steps cost; learned by who computes them.
        tricks: What is allowed.
    """

    def __init__(
        self,
        sharing: Sharing,
        *,
        n_slots: int,
        n_batch: int,
        n_outputs: int,
        costs: RowCosts | None = None,
        tricks: Tricks = ALL_TRICKS,
    ) -> None:
        self.seats = Seats(sharing, n_slots, preemption=tricks.preemption)
        self.waiting = self.seats.waiting
        self.running = self.seats.running
        self._sharing = sharing
        self._n_batch = n_batch
        self._n_outputs = n_outputs
        self._costs = costs or RowCosts()
        self._tricks = tricks
        self._n_plans = 0

    def admit(self) -> None:
        """Give free slots, and those of lesser jobs, to jobs that wait, as KV memory allows."""
        self.seats.admit()

    def plan(self) -> list[Part]:
        """Choose the rows of the next batch: of decoding jobs, their guesses, then prompts."""
        self._n_plans += 1
        self._sharing.resume(self.running)
        decoding = [job for job in self.running if job.is_decoding and job.leader is None]
        others = [job for job in self.running if not job.is_decoding and job.leader is None]
        # Now and then the plain step, so that what it costs stays known, too.
        is_plain = self._n_plans % _PLAIN_EVERY == 0
        if self._tricks.packing and not is_plain and not others and len(decoding) > 1:
            decoding.sort(key=lambda job: job.planned_at)
            decoding = decoding[: batching.group(self._costs, [job.n_pending for job in decoding])]
        parts = self._decode(decoding)
        if parts and not is_plain:
            parts = self._fill(parts, others)
        if others:
            parts += self._prefill(others, parts)
        parts = self._fit(parts)
        for part in parts:
            part.job.planned_at = self._n_plans
        return parts

    def _decode(self, jobs: list[Job]) -> list[Part]:
        parts: list[Part] = []
        rows, outputs = self._n_batch, self._n_outputs
        for job in jobs:
            part = _part(job, rows, outputs)
            if part is not None:
                rows -= part.n_tokens
                outputs -= part.n_outputs
                parts.append(part)
        return parts

    def _prefill(self, jobs: list[Job], decode: list[Part]) -> list[Part]:
        n_rows = sum(part.n_rows for part in decode)
        left = self._n_batch - n_rows
        outputs = self._n_outputs - sum(part.n_outputs for part in decode)
        rows = batching.prompt_rows(
            self._costs,
            n_rows,
            max_rows=left,
            n_answers=len(decode),
            n_waiting=sum(not job.is_decoding for job in self.running),
            blocks=self._tricks.packing,
        )
        parts: list[Part] = []
        for job in jobs:
            part = _part(job, min(rows, left), outputs)
            if part is not None:
                rows -= part.n_tokens
                left -= part.n_tokens
                outputs -= part.n_outputs
                parts.append(part)
        return parts

    def _fill(self, parts: list[Part], others: list[Job]) -> list[Part]:
        # Rows beyond those that are needed: guesses that are likely enough, or blanks. Guesses take
        # neither the room nor the logits that prompts need.
        blanks = self._tricks.packing and not others
        n_rows = sum(part.n_tokens for part in parts)
        n_prompt = min(sum(job.n_pending for job in others), self._n_batch // 2)
        room = min(self._n_batch, self._sharing.free_cells) - n_rows - n_prompt
        outputs = self._n_outputs - sum(part.n_outputs for part in parts) - len(others)
        outputs = max(0, min(outputs, room))
        hope = max(part.job.guess_rate for part in parts)
        # A guess that is surely made costs less than finding out whether it could pay.
        if hope < 1 and not self._spare(parts, n_rows, [hope] * outputs, room, blanks=blanks):
            return parts
        n_draft = min(_MAX_DRAFT, outputs)
        drafts = [part.job.draft(n_draft) for part in parts] if hope and n_draft else []
        guesses = sorted(
            (_Guess(chance, at) for at, draft in enumerate(drafts) for chance in draft.chances),
            reverse=True,
        )[:outputs]
        chances = [guess.chance for guess in guesses]
        spare = self._spare(parts, n_rows, chances, room, blanks=blanks)
        taken = Counter(guess.part for guess in guesses[:spare])
        filled = [
            _with_draft(part, drafts[at].cut(taken[at])) if at in taken else part
            for at, part in enumerate(parts)
        ]
        self._add_blanks(filled, spare - taken.total())
        return filled

    def _add_blanks(self, parts: list[Part], n: int) -> None:
        # Behind the shortest sequence: a sequence cannot be longer than the context.
        at = min(range(len(parts)), key=lambda at: parts[at].length)
        part = parts[at]
        n = min(n, self._sharing.max_length - part.length)
        if n > 0:
            parts[at] = Part(part.job, part.n_tokens, part.n_outputs, part.draft, n)

    def _spare(
        self, parts: list[Part], n_rows: int, chances: list[float], room: int, *, blanks: bool
    ) -> int:
        rows = batching.spare_rows(self._costs, len(parts), n_rows, chances)
        if not blanks:
            rows = min(rows, len(chances))
        return max(0, min(rows, room))

    def retire(self, job: Job, *, keep: bool, answered: bool = False) -> None:
        """Take a job out, wherever it is.

        Args:
            job: Waiting or running.
            keep: Leave its KV memory to the prefix cache.
            answered: Whether its answer is complete.
        """
        self.seats.leave(job, keep=keep, answered=answered)
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
        while not self._sharing.make_room(sum(part.n_rows for part in parts)):
            victim = self.seats.last()
            self.seats.preempt(victim)
            parts = [part for part in parts if part.job is not victim]
        return parts


class _Guess(NamedTuple):
    """A guessed row: how likely it is right, and whose."""

    chance: float
    part: int


def _with_draft(part: Part, draft: Draft) -> Part:
    return Part(part.job, part.n_tokens, part.n_outputs + draft.n_outputs, draft)


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
