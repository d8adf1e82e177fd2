"""One request inside the engine, from its queue to its last token."""

import time

from serve_app.engines.llama_cpp.answer import Answer
from serve_app.engines.llama_cpp.answer_memory import AnswerTree
from serve_app.engines.llama_cpp.channel import Channel
from serve_app.engines.llama_cpp.drafts import NO_DRAFT, Draft, Source
from serve_app.engines.llama_cpp.first_choice import FirstBias
from serve_app.engines.llama_cpp.grammar import Grammar
from serve_app.engines.llama_cpp.judged import TokenJudge
from serve_app.engines.llama_cpp.sampling import TokenSampler
from serve_app.engines.protocol import GenerationRequest, SamplingParams, Timings

_FEW_ROWS = 32
"""Rows of forced text that count as decoding; more are computed like a prompt."""


class Job:
    """A request's tokens and how many of them are in KV memory.

    `tokens` grows by each sampled token and `n_past` follows it, so prefill, decoding and the
    repeated prefill after a preemption are all the same: feed `tokens[n_past:]`.

    Args:
        request: What was asked.
        prompt: Its token ids, at least one.
        echo_text: Text that an `echo` request sends first.
        grammar: Compiled schema, if one was asked for.
        judge: What else the answer must keep, with a grammar only.
        first_bias: What is added to the logits of its first token, with a grammar only.
        channel: Where chunks go.
        n_ctx: Tokens that prompt and answer may have together.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt: tuple[int, ...],
        *,
        echo_text: str,
        grammar: Grammar | None,
        channel: Channel,
        n_ctx: int,
        judge: TokenJudge | None = None,
        first_bias: FirstBias | None = None,
    ) -> None:
        self.request_id = request.request_id
        self.cache_salt = request.cache_salt
        self.priority = request.priority
        self.adapter = request.adapter
        self.params: SamplingParams = request.sampling
        self.channel = channel
        self.grammar = grammar
        self.judge = judge
        self.first_bias = first_bias
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.n_past = 0
        self.max_length = min(n_ctx, len(prompt) + max(0, request.sampling.max_tokens))
        # A stop string could cut a JSON answer short, and its "stop" would then be a lie.
        stop = () if grammar else request.sampling.stop
        self.answer = Answer(len(prompt), stop, echo_text if request.echo else "")
        self.wants_prompt_logprobs = request.echo and request.sampling.logprobs is not None
        self.sampler: TokenSampler | None = None
        self.submitted_at = time.monotonic()
        self.seated_at = self.submitted_at
        """When it last got a slot."""
        self.slot_s = 0.0
        """Seconds for which it held slots before."""
        self.deadline = _after(self.submitted_at, request.timeout_s)
        self.first_token_deadline = _after(self.submitted_at, request.first_token_s)
        self.n_preemptions = 0
        self.n_overtaken = 0
        """How often others went before it while it found no KV memory."""
        self.is_promoted = False
        """Whether it got its slot because its class had waited for long; it then keeps it."""
        self.first_seated_at: float | None = None
        """When it got its first slot, on the monotonic clock."""
        self.seq_id: int | None = None
        """Sequence in KV memory; None while waiting."""
        self.leader: Job | None = None
        """A running job that is computing a prefix this one is going to share."""
        self.leader_tokens = 0
        """How many tokens of the leader are waited for."""
        self.kind = (request.cache_salt, grammar.key if grammar else b"")
        """Answers of the same kind may be guessed from."""
        self.tree: AnswerTree | None = None
        """Them, if they are remembered."""
        self.sources: list[Source] = []
        """Where guesses come from; the surest first."""
        self.draft_source: Source | None = None
        """Whose guess was the latest."""
        self.planned_at = 0
        """Number of the last plan that it had a part in."""

    @property
    def n_pending(self) -> int:
        """Tokens that are not in KV memory yet."""
        return len(self.tokens) - self.n_past

    @property
    def due(self) -> float | None:
        """The next moment by which something must have come, None without any."""
        moments = [self.deadline]
        if len(self.tokens) == self.n_prompt:
            moments.append(self.first_token_deadline)
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def is_decoding(self) -> bool:
        """Whether the next step gives this job its next token for one row, or for a few."""
        return 0 < self.n_pending <= _FEW_ROWS and self.n_past > 0 and self.is_answering

    @property
    def is_answering(self) -> bool:
        """Whether the answer has begun."""
        return len(self.tokens) > self.n_prompt

    @property
    def guess_rate(self) -> float:
        """About how likely a guessed token is right, at best; 0 if none can be guessed."""
        return max((source.rate for source in self.sources), default=0.0)

    def draft(self, n: int) -> Draft:
        """Return at most `n` tokens that may come next, within the answer's length.

        Of two guesses that is taken from which more right tokens are expected.
        """
        n = min(n, self.max_length - len(self.tokens) - 1)
        if n <= 0:
            return NO_DRAFT
        best, best_gain = NO_DRAFT, 0.0
        for source in self.sources:
            if best.chances and best.chances[0] >= source.rate:
                continue
            draft = source.propose(self.tokens, n)
            gain = sum(draft.chances)
            if gain > best_gain:
                best, best_gain, self.draft_source = draft, gain, source
        return best

    def record(self, draft: Draft, n_right: int) -> None:
        """Learn how the latest guess turned out, as far as it was computed."""
        if self.draft_source is not None:
            self.draft_source.record(draft, n_right)

    def to_waiting(self) -> None:
        """Forget the KV memory; what is not kept is computed again when it is admitted anew."""
        self.seq_id = None
        self.leader = None
        self.n_past = 0
        self.n_preemptions += 1
        self.is_promoted = False

    def timings(self, first_token_at: float) -> Timings:
        """Return where the time went that it took until now."""
        seated_at = self.first_seated_at or first_token_at
        return Timings(
            queue_s=seated_at - self.submitted_at,
            prefill_s=first_token_at - seated_at,
            decode_s=time.monotonic() - first_token_at,
        )

    def close(self) -> None:
        """Free what the job holds in C."""
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None


def _after(moment: float, seconds: float | None) -> float | None:
    return None if seconds is None else moment + seconds
