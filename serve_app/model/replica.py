"""The Serve deployment around one variant's model."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from ray import serve

from serve_app.direct import Outlet, ReplyTo, Unreachable
from serve_app.engines.protocol import EngineStats, GenerationChunk, GenerationRequest, Message
from serve_app.errors import EngineFailed, ModelNotReady, RequestError
from serve_app.model.autoscaling import ServiceClock
from serve_app.model.calls import (
    ModelCall,
    ModelIdentity,
    ModelState,
    ReplyBatch,
    merge_chunks,
)
from serve_app.model.keeper import ModelKeeper
from serve_app.model.profile import Profile
from serve_app.model.slot import LoadedModel
from serve_app.model.spans import call_span, describe_chunk, describe_start
from serve_app.singleflight import FlightTable
from serve_app.telemetry.logs import configure_logging
from serve_app.telemetry.merge import Family, snapshot
from serve_app.telemetry.metrics import ModelMetrics
from serve_app.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_LAST_SPANS_S = 2.0
"""How long a replica that stops tries to send its last traces."""
_LINGER_S = 2.0
"""Seconds that an answer can still be joined after its end, by callers without a common cache."""


class ModelReplica:
    """Serves one model; exchanges it without dropping a request when its configuration changes.

    `reconfigure` never raises, and after the first load never blocks: a configuration that cannot
    be served leaves the old model in place and is reported by `state` and in the metrics.
    """

    def __init__(self) -> None:
        context = serve.get_replica_context()
        self._replica = context.replica_id.unique_id
        self._app = context.app_name
        configure_logging(f"{self._app}-{self._replica}")
        self._metrics = ModelMetrics()
        self._tracing = Tracing("carril-model", self._replica, self._metrics.traces)
        self._keeper = ModelKeeper(self._app, self._replica, self._metrics)
        self._outlet = Outlet()
        self._flights: FlightTable[ReplyBatch] = FlightTable(linger_s=_LINGER_S)
        self._clock = ServiceClock()
        self._calls = 0
        """Calls that the engine holds, in a slot or waiting."""

    async def reconfigure(self, raw: object) -> None:
        """Take a new configuration; see `ModelKeeper.want`."""
        await self._keeper.want(raw)
        if self._keeper.config is not None:
            self._tracing.configure(self._keeper.config.tracing)

    async def generate(self, call: ModelCall) -> ReplyBatch:
        """Answer a call in one piece, as one chunk: each would be packed and unpacked by itself."""
        chunks: list[GenerationChunk] = []
        head: ReplyBatch | None = None
        async with aclosing(self._batches(call)) as batches:
            async for batch in batches:
                head = head or batch
                chunks.extend(batch.chunks)
        if head is None:
            raise EngineFailed("the engine returned nothing")
        return replace(head, chunks=(merge_chunks(chunks),))

    async def stream(self, call: ModelCall) -> AsyncGenerator[ReplyBatch, None]:
        """Answer a call piece by piece."""
        async with aclosing(self._batches(call)) as batches:
            async for batch in batches:
                yield batch

    async def push(self, call: ModelCall, reply_to: ReplyTo) -> bool:
        """Answer a call piece by piece, over a socket to its gateway.

        Returns:
            Whether everything was sent; False if the gateway cannot be reached, before anything
            was computed.
        """
        try:
            sender = await self._outlet.connect(reply_to)
        except Unreachable as error:
            logger.warning("gateway is out of reach: %s", error)
            return False
        async with aclosing(self._batches(call)) as batches:
            async for batch in batches:
                await sender.send(batch)
        return True

    async def state(self) -> ModelState:
        """Describe the replica for `/readyz`."""
        return self._keeper.state()

    async def metrics(self) -> list[Family]:
        """Return this replica's series."""
        self._metrics.set_state(self._keeper.state())
        current = self._keeper.slot.current
        # A model that sleeps has no requests and no memory; its counters stay.
        stats = current.engine.stats() if current else self._metrics.idle_engine()
        health = current.engine.health() if current else None
        self._metrics.set_engine(stats, health.heartbeat_age_s if health else 0.0)
        self._observe()
        self._metrics.service_s.set(self._clock.service_s)
        return snapshot(self._metrics.registry, {"replica": self._replica})

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load for `scaling_policy`; Serve asks where autoscaling is configured."""
        config = self._keeper.config
        if config is None:
            return {}
        self._observe()
        current = self._keeper.slot.current
        stats = current.engine.stats() if current else EngineStats()
        return {
            "running": float(stats.running),
            "waiting": float(stats.waiting),
            "slots": float(config.total_slots),
            "kv_used": float(stats.kv_tokens_used),
            "kv_capacity": float(stats.kv_tokens_capacity),
            "service_s": self._clock.service_s,
            **config.scaling.model_dump(),
        }

    async def check_health(self) -> None:
        """Fail if an engine is dead or hangs; Serve then replaces the replica."""
        for model in self._keeper.slot.loaded:
            health = model.engine.health()
            if not health.alive:
                raise RuntimeError(f"engine dead: {health.reason}")
            if health.heartbeat_age_s > model.heartbeat_timeout_s:
                raise RuntimeError(f"engine hangs: no step for {health.heartbeat_age_s:.0f} s")

    def __del__(self) -> None:
        """Send the last traces; Serve calls this when the replica stops."""
        if "_tracing" in vars(self):
            self._tracing.close(_LAST_SPANS_S)

    def _observe(self, *, departed: int = 0) -> None:
        """Tell the clock how many requests hold a slot."""
        config = self._keeper.config
        # Not the engine's own count: it lags behind by the moment in which a free slot is taken.
        running = min(self._calls, config.total_slots) if config else 0
        self._clock.observe(time.monotonic(), running, departed=departed)

    async def _batches(self, call: ModelCall) -> AsyncGenerator[ReplyBatch, None]:
        identity = self._keeper.identity
        key = None
        if call.flight_key is not None and identity is not None:
            key = f"{identity.fingerprint}:{call.flight_key}"
        stream, joined = self._flights.board(key, lambda: self._generate(call))
        async with aclosing(stream) as batches:
            async for batch in batches:
                yield replace(batch, joined=joined) if batch.identity else batch

    async def _generate(self, call: ModelCall) -> AsyncGenerator[ReplyBatch, None]:
        with call_span(self._tracing, call, self._app) as span:
            async with self._keeper.use() as model, self._counted():
                request = _apply_profile(call, model.profile)
                identity = _identity_of(model, request.adapter)
                if span.recording:
                    describe_start(span, identity, request)
                first = True
                async with aclosing(_stream(model, request)) as chunks:
                    async for chunk in chunks:
                        if span.recording:
                            describe_chunk(span, chunk, first=first)
                        yield ReplyBatch(chunks=(chunk,), identity=identity if first else None)
                        first = False

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Count a call as one that needs a slot."""
        self._calls += 1
        self._observe()
        try:
            yield
        finally:
            self._calls -= 1
            self._observe(departed=1)


def _identity_of(model: LoadedModel, adapter: str | None) -> ModelIdentity:
    identity = model.identity.of(adapter)
    if identity is None:
        loaded = [known.name for known in model.identity.adapters]
        wanted = "no adapter" if adapter is None else f"adapter {adapter!r}"
        raise ModelNotReady(
            f"{wanted} was asked for, and the loaded model serves the adapters {loaded} only",
            None,
            2.0,
        )
    return identity


async def _stream(
    model: LoadedModel, request: GenerationRequest
) -> AsyncGenerator[GenerationChunk, None]:
    try:
        # Closed here, so that a model is not freed before its engine has let the request go.
        async with aclosing(model.engine.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk
    except RequestError:
        raise
    except Exception as error:
        logger.exception("engine raised", extra={"request_id": request.request_id})
        raise EngineFailed("the engine failed on this request") from error


def _apply_profile(call: ModelCall, profile: Profile) -> GenerationRequest:
    """Add the variant's system prompt and answer schema where the client brought none."""
    request = call.request
    if not request.messages:
        return request
    if profile.system_prompt and request.messages[0].role not in ("system", "developer"):
        system = Message(role="system", content=profile.system_prompt)
        request = replace(request, messages=(system, *request.messages))
    if profile.answer_schema and request.json_schema is None:
        request = replace(
            request,
            json_schema=profile.answer_schema,
            first_bias=_first_bias(request.messages, profile),
        )
    if profile.grounding != "off":
        request = replace(request, grounding=profile.grounding)
    return request


def _first_bias(messages: Sequence[Message], profile: Profile) -> Mapping[str, float] | None:
    """Return what the profile's classifier says of the last message of the user."""
    if profile.bias is None:
        return None
    said = next((turn.content for turn in reversed(messages) if turn.role == "user"), None)
    return None if said is None else profile.bias.of(said)
