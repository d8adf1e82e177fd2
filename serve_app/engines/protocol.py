"""What an engine is: the seam between the serving side and whatever computes tokens.

An engine owns one model. It takes `GenerationRequest`s, many at a time, and gives each a stream of
`GenerationChunk`s. Everything here is plain data, so that it can cross a process border.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

from experiments.grounding.profile_options import Grounding

Role = Literal["system", "user", "assistant", "developer"]
FinishReason = Literal["stop", "length"]
Priority = Literal["interactive", "batch", "background"]
"""Who waits for the answer: a user, a job (evaluations, datasets), or nobody (shadow copies)."""
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""The classes, the one that goes first first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. `content` is text only and is never parsed as special tokens."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn. Defaults are greedy-free OpenAI defaults."""

    max_tokens: int
    """Tokens to generate at most, >= 0 (0 is only of use with `echo`)."""
    temperature: float = 1.0
    """0 is greedy; 0..2."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    """Same seed, same request, same weights: same answer, up to batch effects on the last bits."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """None is off; n >= 0 asks for the chosen token's log-probability and the n best ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One thing to generate: either `messages` (chat) or `prompt` (text), never both."""

    request_id: str
    sampling: SamplingParams
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    """Text, or token ids as given by lm-eval and other clients of /v1/completions."""
    echo: bool = False
    """Completions only: the prompt's own text and log-probabilities come first."""
    json_schema: str | None = None
    """Canonical JSON text of a schema in the supported subset; None is free text."""
    grounding: Grounding = "off"
    """What JSON answers of a chat must keep to: with `inventory`, to the rows in its prompt."""
    first_bias: Mapping[str, float] | None = None
    """What is added to the logits of an answer's first token, by the text that it spells or begins
    with; with a `json_schema` only. Part of every probability that is reported."""
    cache_salt: str = ""
    """KV of earlier prompts is reused between requests of one salt only: who shares none cannot
    learn from timing what others asked."""
    timeout_s: float | None = None
    """Seconds from receipt after which the engine may drop the request, however far it has come."""
    first_token_s: float | None = None
    """Seconds from receipt after which it may drop the request if there is no token yet."""
    adapter: str | None = None
    """LoRA adapter that answers; None is the base."""
    priority: Priority = "interactive"
    """Whom it lets go first when slots or memory are short. Never changes the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLogprob:
    """One candidate of a position."""

    token: str
    token_bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """The token that was chosen (or echoed), and its best rivals."""

    token: str
    token_bytes: bytes
    logprob: float | None
    """None for the first token of an echoed prompt, which nothing predicts."""
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one request so far."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens whose KV was reused from an earlier request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where an engine's time for one request went; the parts follow one another."""

    queue_s: float
    """From its arrival to its first slot."""
    prefill_s: float
    """From there to its first token."""
    decode_s: float
    """From there to its last token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationChunk:
    """A piece of an answer. The last one, and only it, has a `finish_reason`."""

    text: str
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_text: str = ""
    """First chunk of an `echo` request only."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    timings: Timings | None = field(default=None, compare=False)
    """Last chunk only, of engines that know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """Whether the engine makes progress."""

    alive: bool
    heartbeat_age_s: float
    """Seconds since the engine's loop last turned; grows while one step hangs."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters and gauges of one engine since its start."""

    running: int = 0
    waiting: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    completion_tokens_total: int = 0
    steps_total: int = 0
    step_rows_total: int = 0
    """Rows over all steps; divided by `steps_total` it is the mean batch size."""
    kv_tokens_used: int = 0
    kv_tokens_capacity: int = 0
    cancelled_total: int = 0
    evicted_tokens_total: int = 0
    """Tokens of ended requests that were kept for later ones and given up for room."""
    restored_tokens_total: int = 0
    """Tokens whose KV came from disk when the model was loaded."""
    forced_tokens_total: int = 0
    """Tokens of answers that the JSON schema left no choice about."""
    guessed_by_source: dict[str, int] = field(default_factory=dict)
    """Tokens of answers that were computed on suspicion, by where they were taken from."""
    right_by_source: dict[str, int] = field(default_factory=dict)
    """Those of them that came true."""
    preempted_total: int = 0
    """Slots taken back, for a request of a higher class or for want of KV memory."""
    refused_late_total: int = 0
    """Requests refused because they could not have met their deadline."""
    waiting_by_priority: dict[Priority, int] = field(default_factory=dict)
    """`waiting` by class, as far as the engine keeps them apart."""

    @property
    def guessed_tokens_total(self) -> int:
        """Guessed tokens from all sources."""
        return sum(self.guessed_by_source.values())

    @property
    def right_guesses_total(self) -> int:
        """Those of them that came true."""
        return sum(self.right_by_source.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What was loaded."""

    engine: Literal["echo", "llama_cpp", "vllm"]
    version: str
    model_name: str
    n_ctx: int
    n_slots: int
    n_vocab: int
    template_sha256: str
    """Hash of the chat template in use; part of every cache key."""
    details: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """A loaded model that generates. Create it with its module's `load`, which is blocking."""

    @property
    def info(self) -> EngineInfo:
        """Describe what is loaded."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Yield the answer's chunks. Closing the generator cancels the request.

        Raises:
            ContextLengthExceeded: If the prompt does not fit.
            InvalidSchema: If `json_schema` cannot be compiled.
            Overloaded: If the engine's own queue is full.
            EngineFailed: If computing failed for this request.
        """
        ...

    async def count_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the number of tokens that the rendered conversation takes."""
        ...

    def health(self) -> EngineHealth:
        """Report progress; cheap, safe from any thread."""
        ...

    def stats(self) -> EngineStats:
        """Return counters; cheap, safe from any thread."""
        ...

    async def close(self) -> None:
        """Stop the loop and free the model. Requests still running end with `EngineFailed`."""
        ...
