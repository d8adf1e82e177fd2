"""Calling a variant's model application: handle, known weights, and one retry."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from serve_app.direct import Inbox
from serve_app.direct.frames import can_carry
from serve_app.engines.protocol import Priority
from serve_app.errors import (
    InternalError,
    ModelNotReady,
    Overloaded,
    ReplicaLost,
    RequestError,
)
from serve_app.gateway.retry import RetryBudget
from serve_app.model.calls import ModelCall, ModelIdentity, ModelState, ReplyBatch
from serve_app.telemetry.merge import Family
from serve_app.telemetry.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

_LOST = (RayActorError, ReplicaUnavailableError, RequestCancelledError, grpc.aio.AioRpcError)
"""What a call raises when its replica died or left while it held the request."""
_CONTROL_TIMEOUT_S = 2.0
_LESSER_AT_ONCE: dict[Priority, int] = {"batch": 12, "background": 4}
"""Calls of a class that a gateway has at one application at once. The rest wait here: a replica's
line knows classes, the queue that Serve keeps before a full replica does not."""
_BELIEVED_S = 5.0
"""How long replicas are believed to be as they were when none answers: one that is just being given
a configuration is out of reach for a moment."""


class VariantClient:
    """The way to one variant's replicas.

    Args:
        name: Name of the variant.
        app: Serve application that serves it.
        budget: Retry budget, shared by all variants of this gateway.
        metrics: Counts retries.
        adapter: LoRA adapter of the application's model; None is its base.
        inbox: Where replicas send the pieces of streams; None takes them from Serve.
    """

    def __init__(
        self,
        name: str,
        app: str,
        budget: RetryBudget,
        metrics: GatewayMetrics,
        *,
        adapter: str | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.name = name
        self.app = app
        self.adapter = adapter
        self._budget = budget
        self._metrics = metrics
        self._handle: Any = None  # Serve handles are untyped
        self._unary: Any = None
        self._stream: Any = None
        self._push: Any = None
        self._inbox = inbox
        self._gates = {name: asyncio.Semaphore(n) for name, n in _LESSER_AT_ONCE.items()}
        self.states: list[ModelState] = []
        self._states_until = 0.0
        self.identity: ModelIdentity | None = None
        """Weights that answered or reported last; what cache lookups and exposures go by."""

    async def call(self, call: ModelCall, *, stream: bool) -> AsyncGenerator[ReplyBatch, None]:
        """Yield the reply; repeat the call once if its replica dies before the first token.

        Args:
            call: What to generate.
            stream: Whether to ask for pieces; otherwise there is one batch.

        Raises:
            RequestError: What the replica raised, or that it could not be reached.
        """
        if self.adapter is not None:
            call = replace(call, request=replace(call.request, adapter=self.adapter))
        gate = self._gates.get(call.request.priority)
        if gate is not None:
            await gate.acquire()
        retries = 0
        self._budget.enter()
        try:
            while True:
                started = False
                try:
                    async with aclosing(self._attempt(call, stream=stream)) as batches:
                        async for batch in batches:
                            started = True
                            if batch.identity is not None:
                                self.identity = batch.identity
                            yield replace(batch, retries=retries)
                    return
                except (ReplicaLost, ModelNotReady) as error:
                    if started or retries >= self._budget.config.max_retries:
                        raise
                    if not await self._budget.begin():
                        self._metrics.retries_refused.labels(self.name).inc()
                        raise
                    retries += 1
                    self._metrics.retries.labels(self.name).inc()
                    logger.warning(
                        "request repeated",
                        extra={
                            "request_id": call.request.request_id,
                            "variant": self.name,
                            "reason": error.code,
                        },
                    )
        finally:
            if gate is not None:
                gate.release()
            self._budget.leave()
            for _ in range(retries):
                self._budget.end()

    def adopt(self, other: "VariantClient") -> None:
        """Take over connection and knowledge of another client to the same model and adapter."""
        self._handle, self._unary, self._stream = other._handle, other._unary, other._stream
        self._push = other._push
        self._gates = other._gates
        self.states, self.identity = other.states, other.identity
        self._states_until = other._states_until

    def share_gates(self, other: "VariantClient") -> None:
        """Bound lesser work together with another variant of the same application."""
        self._gates = other._gates

    async def refresh(self) -> None:
        """Ask every replica for its state; for a while, silence leaves the last known ones."""
        try:
            await self._connect()
            responses = await self._handle.broadcast("state").results_async(
                timeout_s=_CONTROL_TIMEOUT_S, return_exceptions=True
            )
        except (RayServeException, RayError, RequestError, TimeoutError):
            responses = []
        states = [
            _as_seen(state, self.adapter) for state in responses if isinstance(state, ModelState)
        ]
        if not states and time.monotonic() < self._states_until:
            return
        self.states, self._states_until = states, time.monotonic() + _BELIEVED_S
        identities = [state.identity for state in self.states if state.identity]
        known = {identity.fingerprint for identity in identities}
        if identities and (self.identity is None or self.identity.fingerprint not in known):
            self.identity = identities[0]

    async def metrics(self) -> list[list[Family]]:
        """Return the series of every replica."""
        try:
            await self._connect()
            responses = await self._handle.broadcast("metrics").results_async(
                timeout_s=_CONTROL_TIMEOUT_S, return_exceptions=True
            )
        except (RayServeException, RayError, RequestError, TimeoutError):
            return []
        return [families for families in responses if isinstance(families, list)]

    async def _connect(self) -> None:
        if self._unary is not None:
            return
        try:
            # Resolving a name is a blocking call to the controller.
            handle = await asyncio.to_thread(serve.get_app_handle, self.app)
        except RayServeException as error:
            raise ModelNotReady(f"variant {self.name!r} is not deployed", None, 2.0) from error
        self._handle = handle
        # Our records are plain dataclasses: the C pickler takes half the time of cloudpickle.
        fast = {"request_serialization": "pickle", "response_serialization": "pickle"}
        self._unary = handle.options(method_name="generate", **fast)
        self._stream = handle.options(method_name="stream", stream=True, **fast)
        self._push = handle.options(method_name="push", **fast)

    async def _attempt(self, call: ModelCall, *, stream: bool) -> AsyncGenerator[ReplyBatch, None]:
        await self._connect()
        try:
            if not stream:
                unary = self._unary.remote(call)
                try:
                    reply = await unary
                except asyncio.CancelledError:
                    unary.cancel()
                    raise
                yield reply
                return
            inbox = self._inbox
            if inbox is not None and inbox.usable and can_carry(call.request):
                began = False
                async with aclosing(self._pushed(call, inbox)) as batches:
                    async for batch in batches:
                        began = True
                        yield batch
                if began:
                    return
                inbox.avoid()
            response = self._stream.remote(call)
            finished = False
            try:
                async for batch in response:
                    yield batch
                finished = True
            finally:
                if not finished:
                    response.cancel()
        except RequestError:
            raise
        except BackPressureError as error:
            raise Overloaded(
                f"variant {self.name!r} has too many requests waiting", None, 1.0
            ) from error
        except DeploymentUnavailableError as error:
            self._unary = self._stream = None
            raise ModelNotReady(f"variant {self.name!r} is not available", None, 2.0) from error
        except _LOST as error:
            raise ReplicaLost(
                "the model replica died while it held the request", None, 1.0
            ) from error
        except RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, RequestError):
                raise cause from error
            logger.exception("replica raised", extra={"request_id": call.request.request_id})
            raise InternalError("the model replica failed on this request") from error

    async def _pushed(self, call: ModelCall, inbox: Inbox) -> AsyncGenerator[ReplyBatch, None]:
        """Yield the reply's pieces as they come in; nothing if the replica cannot send them."""
        try:
            incoming = await inbox.expect()
        except OSError:
            logger.exception("no socket for streams")
            return
        response = self._push.remote(call, incoming.reply_to)
        result = asyncio.ensure_future(_result(response))
        finished = False
        try:
            async with aclosing(incoming.batches(result)) as batches:
                async for batch in batches:
                    yield batch
            finished = True
        finally:
            incoming.close()
            if not finished and not result.done():
                response.cancel()
                result.cancel()
            result.add_done_callback(_retrieve)


async def _result(response: Any) -> bool:
    return bool(await response)


def _retrieve(result: asyncio.Future[bool]) -> None:
    # The answer is complete by now; what the call raises after it concerns nobody.
    if not result.cancelled():
        result.exception()


def _as_seen(state: ModelState, adapter: str | None) -> ModelState:
    """Return a replica's state as far as one adapter of its model is concerned."""
    if state.identity is None:
        return state
    identity = state.identity.of(adapter)
    if identity is not None:
        return replace(state, identity=identity)
    loaded = [known.name for known in state.identity.adapters]
    missing = "the base does not answer" if adapter is None else f"adapter {adapter!r} is missing"
    error = state.error or f"{missing}; adapters that are loaded: {loaded}"
    return replace(state, state="failed", identity=None, error=error)
