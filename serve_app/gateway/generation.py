"""One generation: cache, exposure, flight, model. The order of the steps is the contract."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from experiments.events.records import CacheState, Exposure
from serve_app.engines.protocol import GenerationChunk, GenerationRequest, Usage
from serve_app.errors import DeadlineExceeded, EngineFailed, ModelNotReady
from serve_app.events.client import EventClient
from serve_app.gateway.cache import CachedAnswer, ResponseCache, cache_key
from serve_app.gateway.policy import Decision
from serve_app.gateway.spans import describe_reply, follow, model_call
from serve_app.gateway.variants import VariantClient
from serve_app.model.calls import ModelCall, ModelIdentity, ReplyBatch, merge_chunks
from serve_app.singleflight import FlightTable
from serve_app.telemetry.tracing import NOT_TRACED, Span

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A validated request, ready to be generated."""

    inference_id: str
    tenant: str
    decision: Decision
    request: GenerationRequest
    stream: bool
    digest: bytes | None
    """Request part of the cache key; None if the answer is not repeatable or must be fresh."""
    config_hash: str
    first_token_at: float
    """Loop time by which the first token must be there."""
    deadline_at: float
    """Loop time by which everything must be there."""
    span: Span = NOT_TRACED
    """The request's."""


@dataclass(slots=True, kw_only=True)
class Generation:
    """An answer that has begun. Iterate `batches` to its end, or close it."""

    identity: ModelIdentity
    cache: CacheState
    retries: int
    called_at: float | None
    """Monotonic time at which the model (or a running generation) was asked; None for a hit."""
    first: tuple[GenerationChunk, ...]
    _rest: AsyncGenerator[tuple[GenerationChunk, ...], None] | None = field(
        default=None, repr=False
    )
    _listener: AsyncGenerator[ReplyBatch, None] | None = field(default=None, repr=False)

    async def batches(self) -> AsyncGenerator[tuple[GenerationChunk, ...], None]:
        """Yield the whole answer, as its chunks came, the first ones included."""
        yield self.first
        if self._rest is not None:
            async with aclosing(self._rest) as rest:
                async for batch in rest:
                    yield batch

    async def close(self) -> None:
        """Give the answer up; the last listener's leaving frees the slot."""
        if self._rest is not None:
            await self._rest.aclose()
        if self._listener is not None:
            # Closing a generator that was never asked for an item closes nothing inside it.
            await self._listener.aclose()


class Generator:
    """Turns jobs into generations.

    Args:
        variants: Clients by variant name.
        cache: Response cache, or None.
        events: Where exposures go.
    """

    def __init__(
        self,
        variants: Mapping[str, VariantClient],
        cache: ResponseCache | None,
        events: EventClient,
    ) -> None:
        self._variants = variants
        self._cache = cache
        self._events = events
        self._flights: FlightTable[ReplyBatch] = FlightTable()

    async def open(self, job: Job) -> Generation:
        """Return the answer once its first chunk is there.

        Raises:
            RequestError: If there is no answer, from whatever cause.
        """
        variant = self._variants[job.decision.variant]
        if variant.identity is None:
            await variant.refresh()
        cached = await self._lookup(job, variant.identity)
        await self._expose(job, variant.identity, cached=cached is not None)
        if cached is not None:
            return Generation(
                identity=cached.identity,
                cache="hit",
                retries=0,
                called_at=None,
                first=(_for_reader(cached.chunk),),
            )
        called_at = time.monotonic()
        key = None
        if job.digest is not None:
            # A user who joined batch work would wait in its class.
            key = f"{cache_key(job.digest, variant.name)}:{job.request.priority}"
        # Streams share with streams: who joined a call that answers in one piece would wait for all
        # of it. The replica brings both kinds together.
        listener, joined = self._flights.board(
            key and f"{key}:{job.stream}", lambda: self._produce(job, variant, key)
        )
        # The first piece of an answer in one piece is the whole of it.
        due_at = min(job.first_token_at, job.deadline_at) if job.stream else job.deadline_at
        try:
            async with asyncio.timeout_at(due_at):
                head = await anext(listener)
                if not job.stream:  # the whole of it: what is left to do is to store it
                    await anext(listener, None)
        except TimeoutError:
            await listener.aclose()
            missing = "first token" if job.stream else "answer"
            raise DeadlineExceeded(f"no {missing} within the deadline") from None
        except StopAsyncIteration:
            raise EngineFailed("the model returned nothing") from None
        except BaseException:
            await listener.aclose()
            raise
        if head.identity is None:
            await listener.aclose()
            raise ModelNotReady("the model did not say who it is", None, 1.0)
        if joined and head.trace is not None:
            job.span.relate(head.trace)
        state: CacheState = "bypass" if job.digest is None else "miss"
        return Generation(
            identity=head.identity,
            cache="join" if joined or head.joined else state,
            retries=head.retries,
            called_at=called_at,
            first=head.chunks,
            _rest=_until(listener, job.deadline_at) if job.stream else None,
            _listener=listener,
        )

    async def _lookup(self, job: Job, identity: ModelIdentity | None) -> CachedAnswer | None:
        if self._cache is None or job.digest is None or identity is None:
            return None
        found = await self._cache.get(cache_key(job.digest, identity.fingerprint))
        job.span.event("cache_looked_up")
        return found

    async def _expose(self, job: Job, identity: ModelIdentity | None, *, cached: bool) -> None:
        decision = job.decision
        if decision.exposure != "enrolled" or decision.exposed:
            return
        assert decision.experiment is not None  # noqa: S101 (enrolled means all four are set)
        assert decision.version is not None  # noqa: S101
        assert decision.unit is not None  # noqa: S101
        assert decision.assignment is not None  # noqa: S101
        exposure = Exposure(
            experiment=decision.experiment,
            version=decision.version,
            unit=decision.unit,
            variant=decision.variant,
            probability=decision.assignment.probability,
            bucket=decision.assignment.bucket,
            exposed_at=time.time(),
            inference_id=job.inference_id,
            served_model=decision.served_model,
            tenant=job.tenant,
            config_hash=job.config_hash,
            model_sha256=identity.model_sha256 if identity else "",
            cached=cached,
        )
        with job.span.child("commit exposure"):
            await self._events.expose(exposure)

    async def _produce(
        self, job: Job, variant: VariantClient, flight_key: str | None
    ) -> AsyncGenerator[ReplyBatch, None]:
        """Call the model, and store the answer if it is worth keeping."""
        span = model_call(job, variant.name, variant.app)
        follow(span)  # a flight is in nobody's context
        call = ModelCall(request=job.request, flight_key=flight_key, trace=span.context)
        chunks: list[GenerationChunk] = []
        identity: ModelIdentity | None = None
        with span:
            async with aclosing(variant.call(call, stream=job.stream)) as batches:
                async for batch in batches:
                    identity = identity or batch.identity
                    if job.digest is not None:
                        chunks.extend(batch.chunks)
                    if span.recording:
                        describe_reply(span, batch)
                        batch = replace(batch, trace=span.context)
                    yield batch
        if self._cache is None or job.digest is None or identity is None or not chunks:
            return
        if chunks[-1].finish_reason == "stop":
            # Under the weights that answered, which a swap may have changed since the lookup.
            await self._cache.put(
                cache_key(job.digest, identity.fingerprint),
                CachedAnswer(chunk=merge_chunks(chunks), identity=identity),
            )


def _for_reader(chunk: GenerationChunk) -> GenerationChunk:
    """Report a cached answer's prompt as cached, as OpenAI's usage does."""
    usage = Usage(
        prompt_tokens=chunk.usage.prompt_tokens,
        completion_tokens=chunk.usage.completion_tokens,
        cached_tokens=chunk.usage.prompt_tokens,
    )
    return replace(chunk, usage=usage)


async def _until(
    listener: AsyncGenerator[ReplyBatch, None], deadline_at: float
) -> AsyncGenerator[tuple[GenerationChunk, ...], None]:
    """Yield the rest of a flight's chunks, within the deadline."""
    async with aclosing(listener):
        while True:
            try:
                async with asyncio.timeout_at(deadline_at):
                    batch = await anext(listener)
            except TimeoutError:
                raise DeadlineExceeded("the answer was not complete within the deadline") from None
            except StopAsyncIteration:
                return
            yield batch.chunks
