"""What the gateway sends to a model replica, and what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from serve_app.engines.protocol import GenerationChunk, GenerationRequest
from serve_app.telemetry.trace_context import TraceContext


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One request to a model replica.

    Chats get the variant's system prompt and answer schema where the request brings none.
    """

    request: GenerationRequest
    flight_key: str | None = None
    """Identical calls in progress share one generation; None never shares."""
    trace: TraceContext | None = None
    """What the caller is doing for whom: the parent of the replica's span."""


class AdapterHashes(NamedTuple):
    """What tells the answers of an adapter from those of others over the same base."""

    name: str
    model_sha256: str
    """Hash of the base's and the adapter's hashes, and the scale."""
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which weights, template and program answered."""

    replica: str
    engine: str
    engine_version: str
    model_name: str
    model_sha256: str
    """Hash of the model file; for engines without a file, of their configuration."""
    fingerprint: str
    """Hash of everything that can change an answer: weights, template, profile, engine."""
    has_answer_schema: bool
    config_hash: str
    adapters: tuple[AdapterHashes, ...] = ()
    """Adapters that are loaded over the weights; empty in the identity of one of them."""
    serves_base: bool = True
    prior_sha256: str | None = None
    """Hash of the intent prior that is added to the model's choice, with its weight."""

    def of(self, adapter: str | None) -> "ModelIdentity | None":
        """Return the identity of the answers with an adapter; None if it is not loaded."""
        if adapter is None:
            return replace(self, adapters=()) if self.serves_base else None
        for known in self.adapters:
            if known.name == adapter:
                return replace(
                    self,
                    model_sha256=known.model_sha256,
                    fingerprint=known.fingerprint,
                    adapters=(),
                    serves_base=True,
                )
        return None

    @property
    def short(self) -> str:
        """First 12 hex digits of the model hash, as in `x-carril-model`."""
        return self.model_sha256[:12]

    @property
    def system_fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: changes when the same seed may answer differently."""
        return f"{self.engine}-{self.engine_version}-{self.fingerprint[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyBatch:
    """Chunks that came together. The first batch of a reply says who answers."""

    chunks: tuple[GenerationChunk, ...]
    identity: ModelIdentity | None = None
    joined: bool = False
    """Whether the call shares another call's generation."""
    retries: int = 0
    """How often the gateway repeated the call before this reply; the replica leaves it 0."""
    trace: TraceContext | None = None
    """The call's span, for those who join it in the gateway; the replica leaves it None."""


ReplicaState = Literal["loading", "ready", "failed", "idle", "waking"]
"""`idle`: unloaded for want of requests, loaded again by the next one, which is `waking`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A model replica as `/readyz` shows it."""

    replica: str
    state: ReplicaState
    identity: ModelIdentity | None
    """What serves; of an idle replica, what will serve once somebody asks."""
    config_hash: str
    """Configuration that is wanted; `identity.config_hash` is the one that serves."""
    error: str | None
    """Why the wanted configuration does not serve."""


def merge_chunks(chunks: Sequence[GenerationChunk]) -> GenerationChunk:
    """Return one chunk with the whole answer."""
    if len(chunks) == 1:
        return chunks[0]
    return GenerationChunk(
        text="".join(chunk.text for chunk in chunks),
        usage=chunks[-1].usage,
        logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
        finish_reason=chunks[-1].finish_reason,
        prompt_text=chunks[0].prompt_text,
        prompt_logprobs=chunks[0].prompt_logprobs,
    )
