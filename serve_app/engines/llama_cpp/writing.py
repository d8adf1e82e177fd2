"""From the logits of a step to the tokens of an answer, and on to its reader."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.channel import Outbox
from serve_app.engines.llama_cpp.context import Context
from serve_app.engines.llama_cpp.drafts import Draft
from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.logprobs import token_logprob
from serve_app.engines.llama_cpp.sampling import TokenSampler
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.engines.protocol import FinishReason, TokenLogprob
from serve_app.errors import EngineFailed


class Written(NamedTuple):
    """What became of an answer in a step."""

    finish_reason: FinishReason | None
    """Why it ended; None if it goes on."""
    n_forced: int
    """Tokens that were not drawn."""


class Writer:
    """Draws the tokens of answers. Only the engine thread uses it.

    Args:
        context: Where logits were computed.
        vocabulary: Tokens of the model.
        outbox: Where text goes.
        n_ctx: Longest sequence, in tokens.
    """

    def __init__(
        self, context: Context, vocabulary: Vocabulary, outbox: Outbox, *, n_ctx: int
    ) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._outbox = outbox
        self._n_ctx = n_ctx

    def write(self, job: Job, logits: NDArray[np.float32], row: int, draft: Draft) -> Written:
        """Draw tokens for as long as the guesses were right.

        Args:
            job: All its tokens are computed, and the guesses behind them.
            logits: (draft.n_outputs + 1, n_vocab) float32.
            row: Batch index of the first of them.
            draft: Tokens that were computed on suspicion.

        Raises:
            EngineFailed: If no token can be drawn.
        """
        run = _Run(job, draft.tokens, self._vocabulary, self._outbox)
        if len(job.tokens) >= job.max_length:  # nothing to generate
            run.finish_reason = "length"
            return run.close()
        sampler = self._sampler_of(job)
        best = logits.argmax(axis=1).tolist()
        while run.finish_reason is None:
            forced = sampler.forced
            if forced:
                self._force(forced, sampler, run)
                continue
            if not run.follows or run.n - 1 in draft.quiet:
                break
            at = run.n - sum(place < run.n for place in draft.quiet)
            self._draw(sampler, run, logits[at], row + run.n, best[at])
        return run.close()

    def _force(self, tokens: tuple[int, ...], sampler: TokenSampler, run: "_Run") -> None:
        for token in tokens:
            if run.finish_reason is not None or not sampler.feed(token):
                return
            run.n_forced += 1
            run.add(token)

    def _draw(
        self, sampler: TokenSampler, run: "_Run", logits: NDArray[np.float32], row: int, best: int
    ) -> None:
        if not math.isfinite(logits[best]):
            raise EngineFailed("the model computed numbers that are not finite")
        bias = run.job.first_bias
        if bias is not None and not run.job.is_answering:
            logits = bias.added_to(logits)
            best = int(logits.argmax())
        token = sampler.sample(self._context.handle, row, logits, best)
        if token is None:
            raise EngineFailed("no token of this model continues the JSON answer")
        if token in self._vocabulary.eog:
            run.finish_reason = "stop"
            return
        n_top = run.job.params.logprobs
        logprob = None
        if n_top is not None:
            logprob = token_logprob(logits, token, n_top, self._vocabulary)
        run.add(token, logprob)

    def _sampler_of(self, job: Job) -> TokenSampler:
        if job.sampler is None:
            known = job.tree.root if job.tree is not None else None
            job.sampler = TokenSampler(
                job.params,
                n_vocab=self._vocabulary.n_tokens,
                n_ctx=self._n_ctx,
                grammar=job.grammar.start(known) if job.grammar else None,
                judge=job.judge,
            )
        return job.sampler


class _Run:
    """The tokens that an answer gains in one step; they are sent together where nobody minds.

    Args:
        job: Whose they are.
        guesses: What they were guessed to be.
        vocabulary: Tokens of the model.
        outbox: Where their text goes.
    """

    def __init__(
        self, job: Job, guesses: tuple[int, ...], vocabulary: Vocabulary, outbox: Outbox
    ) -> None:
        self.job = job
        self.n = 0
        """Tokens so far."""
        self.n_forced = 0
        self.finish_reason: FinishReason | None = None
        self.follows = True
        """Whether all of them were guessed, so that the logits behind them are there."""
        self._guesses = guesses
        self._pieces: list[bytes] = []
        self._vocabulary = vocabulary
        self._outbox = outbox
        self._is_closed = False

    def add(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Append a token to the answer, and tell whether this ends it."""
        job = self.job
        job.tokens.append(token)
        if self.n >= len(self._guesses) or self._guesses[self.n] != token:
            self.follows = False
        self.n += 1
        self._pieces.append(self._vocabulary.pieces[token])
        if logprob is not None or job.answer.looks_for_stops:
            self._send(logprob)
        if self.finish_reason is None:
            if job.sampler is not None and job.sampler.is_complete:
                self.finish_reason = "stop"
            elif len(job.tokens) >= job.max_length:
                self.finish_reason = "length"

    def close(self) -> Written:
        """Send what was not sent yet, and the end of the answer if this is it."""
        self._send(None)
        if self.finish_reason is not None and not self._is_closed:
            self._outbox.put(self.job.channel, self.job.answer.end(self.finish_reason))
        return Written(self.finish_reason, self.n_forced)

    def _send(self, logprob: TokenLogprob | None) -> None:
        if not self._pieces:
            return
        chunk = self.job.answer.add(b"".join(self._pieces), logprob, n_tokens=len(self._pieces))
        self._pieces.clear()
        if chunk is not None:
            self._outbox.put(self.job.channel, chunk)
            if chunk.finish_reason is not None:
                self.finish_reason, self._is_closed = chunk.finish_reason, True
