"""The Serve deployment around one variant's model."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from ray import serve

from serve_app.config import ModelConfig, content_hash, parse_model_config
from serve_app.engines.protocol import GenerationChunk, GenerationRequest, Message
from serve_app.errors import ConfigError, EngineFailed, RequestError
from serve_app.model.calls import ModelCall, ModelState, ReplyBatch
from serve_app.model.loader import load_model
from serve_app.model.profile import Profile
from serve_app.model.slot import LoadedModel, ModelSlot
from serve_app.singleflight import FlightTable
from serve_app.telemetry.logs import configure_logging
from serve_app.telemetry.merge import Family, snapshot
from serve_app.telemetry.metrics import ModelMetrics

logger = logging.getLogger(__name__)

_RETRY_S = 15.0
"""Pause before a failed load is tried again: the file may be put right without a deploy."""
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
        self._slot = ModelSlot()
        self._flights: FlightTable[ReplyBatch] = FlightTable(linger_s=_LINGER_S)
        self._wanted_hash = ""
        self._refusal: str | None = None
        """Why the newest configuration was not taken."""
        self._error: str | None = None
        """Why the newest one that was taken does not serve."""
        self._loading: asyncio.Task[None] | None = None

    async def reconfigure(self, raw: object) -> None:
        """Take a new configuration; load it beside the old one if it names another model.

        The first load is awaited, so that a new replica takes no traffic before it can answer.
        """
        try:
            config = parse_model_config(raw, app=self._app)
        except ConfigError as error:
            self._metrics.config_refused.inc()
            self._refusal = str(error)
            self._wanted_hash = "invalid"
            logger.error("configuration refused", extra={"app": self._app, "reason": str(error)})
            return
        if self._loading is not None:
            self._loading.cancel()
        self._wanted_hash = content_hash(config)[:12]
        self._refusal = self._error = None
        current = self._slot.current
        if current is not None and current.identity.config_hash == self._wanted_hash:
            return
        self._loading = asyncio.create_task(self._load(config))
        if current is None:
            await asyncio.wait([self._loading], return_when=asyncio.FIRST_COMPLETED)

    async def generate(self, call: ModelCall) -> ReplyBatch:
        """Answer a call in one piece."""
        chunks: list[GenerationChunk] = []
        head: ReplyBatch | None = None
        async with aclosing(self._batches(call)) as batches:
            async for batch in batches:
                head = head or batch
                chunks.extend(batch.chunks)
        if head is None:
            raise EngineFailed("the engine returned nothing")
        return replace(head, chunks=tuple(chunks))

    async def stream(self, call: ModelCall) -> AsyncGenerator[ReplyBatch, None]:
        """Answer a call piece by piece."""
        async with aclosing(self._batches(call)) as batches:
            async for batch in batches:
                yield batch

    async def state(self) -> ModelState:
        """Describe the replica for `/readyz`."""
        current = self._slot.current
        error = self._refusal or self._error
        return ModelState(
            replica=self._replica,
            state="ready" if current else "failed" if error else "loading",
            identity=current.identity if current else None,
            config_hash=self._wanted_hash,
            error=error,
        )

    async def metrics(self) -> list[Family]:
        """Return this replica's series."""
        state = await self.state()
        self._metrics.set_state(state)
        current = self._slot.current
        if current is not None:
            self._metrics.set_engine(
                current.engine.stats(), current.engine.health().heartbeat_age_s
            )
        return snapshot(self._metrics.registry, {"replica": self._replica})

    async def check_health(self) -> None:
        """Fail if an engine is dead or hangs; Serve then replaces the replica."""
        for model in self._slot.loaded:
            health = model.engine.health()
            if not health.alive:
                raise RuntimeError(f"engine dead: {health.reason}")
            if health.heartbeat_age_s > model.heartbeat_timeout_s:
                raise RuntimeError(f"engine hangs: no step for {health.heartbeat_age_s:.0f} s")

    async def _load(self, config: ModelConfig) -> None:
        """Load, swap and drain; after a failure try again until another configuration comes."""
        while True:
            try:
                model = await load_model(config, replica=self._replica)
                break
            except (ConfigError, RequestError) as error:
                self._error = str(error)
            except Exception as error:  # a native loader may raise anything; the old model serves
                self._error = f"loading failed: {error}"
                logger.exception("loading failed", extra={"app": self._app})
            self._metrics.load_failures.inc()
            logger.error("model not loaded", extra={"app": self._app, "reason": self._error})
            if self._slot.current is None:
                # Let `reconfigure` return: the replica comes up, says why it is not ready, and
                # keeps trying.
                self._loading = asyncio.create_task(self._load_later(config))
                return
            await asyncio.sleep(_RETRY_S)
        self._error = None
        self._metrics.swaps.inc()
        # Not awaited by cancellation: a newer configuration must not stop the draining half-way.
        await asyncio.shield(
            asyncio.ensure_future(self._slot.swap(model, drain_timeout_s=config.drain_timeout_s))
        )

    async def _load_later(self, config: ModelConfig) -> None:
        await asyncio.sleep(_RETRY_S)
        await self._load(config)

    async def _batches(self, call: ModelCall) -> AsyncGenerator[ReplyBatch, None]:
        current = self._slot.current
        key = None
        if call.flight_key is not None and current is not None:
            key = f"{current.identity.fingerprint}:{call.flight_key}"
        stream, joined = self._flights.board(key, lambda: self._generate(call))
        async with aclosing(stream) as batches:
            async for batch in batches:
                yield replace(batch, joined=joined) if batch.identity else batch

    async def _generate(self, call: ModelCall) -> AsyncGenerator[ReplyBatch, None]:
        with self._slot.use() as model:
            request = _apply_profile(call, model.profile)
            identity = model.identity
            first = True
            async with aclosing(_stream(model, request)) as chunks:
                async for chunk in chunks:
                    yield ReplyBatch(chunks=(chunk,), identity=identity if first else None)
                    first = False


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
        request = replace(request, json_schema=profile.answer_schema)
    return request
