"""Shadow traffic: copies of requests for a variant that answers nobody yet.

A copy begins when the answer that the user gets is out, holds one of few places, and is dropped
where none is free. Nothing that happens to it reaches the request it was made from: not its time,
not its errors, not its retry budget, not the cache, not the answers that are shared.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from experiments.assignment import N_BUCKETS, bucket_of
from experiments.events.records import CacheState, ExposureState, Outcome
from serve_app.config import ShadowConfig
from serve_app.engines.protocol import GenerationChunk
from serve_app.errors import ClientError, DeadlineExceeded, EngineFailed, RequestError
from serve_app.events.client import EventClient
from serve_app.gateway.answer_labels import AnswerLabels, labels_of
from serve_app.gateway.generation import Job
from serve_app.gateway.spans import describe_reply, model_call
from serve_app.gateway.variants import VariantClient
from serve_app.model.calls import ModelCall, ModelIdentity, merge_chunks
from serve_app.telemetry.metrics import GatewayMetrics
from serve_app.telemetry.tracing import Span

logger = logging.getLogger(__name__)

_BY_HAND: frozenset[ExposureState] = frozenset({"pinned", "override"})
"""Somebody's tests, which say nothing about live traffic."""
_BEHIND_S = 0.005
"""A copy starts this long after the answer, so that the answer's bytes leave first."""
_NEW: frozenset[CacheState] = frozenset({"miss", "bypass"})
"""Answers that a model made for this very request; only those have a latency to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A request that was answered, or failed, as far as a copy of it is concerned."""

    job: Job
    cache: CacheState
    error: BaseException | None
    overhead_s: float
    """Seconds that the gateway, not the model, took. A copy is charged the same, so that both
    latencies are those a user would see."""


@dataclass(slots=True)
class _Reply:
    """What came back for a copy."""

    chunks: list[GenerationChunk] = field(default_factory=list)
    identity: ModelIdentity | None = None
    ttft_s: float | None = None
    error: RequestError | None = None


class ShadowTraffic:
    """Sends copies, and records what comes back.

    Args:
        config: Shadows by name.
        clients: Client of each shadow's variant, by the shadow's name. With budgets of their own.
        events: Where outcomes go.
        metrics: Counts what becomes of each copy.
        previous: The one that this replaces; copies in progress keep their places.
    """

    def __init__(
        self,
        config: Mapping[str, ShadowConfig],
        clients: Mapping[str, VariantClient],
        events: EventClient,
        metrics: GatewayMetrics,
        previous: "ShadowTraffic | None" = None,
    ) -> None:
        self._config = config
        self.clients = clients
        self._events = events
        self._metrics = metrics
        self._in_flight: Counter[str] = Counter() if previous is None else previous._in_flight
        self._tasks: set[asyncio.Task[None]] = set() if previous is None else previous._tasks

    def offer(self, answered: Answered) -> None:
        """Copy a request to the shadows that want it. Returns at once and never raises."""
        try:
            for name, shadow in self._config.items():
                if _wanted(name, shadow, answered):
                    self._send(name, shadow, answered)
        except Exception:  # whatever is wrong with a shadow is no concern of the request
            logger.exception("no copy made", extra={"inference_id": answered.job.inference_id})

    async def drain(self) -> None:
        """Wait for the copies in progress."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, name: str, shadow: ShadowConfig, answered: Answered) -> None:
        if self._in_flight[name] >= shadow.max_in_flight:
            self._metrics.shadow.labels(name, "dropped").inc()
            return
        self._in_flight[name] += 1
        self._metrics.shadow_in_flight.labels(name).inc()
        self._metrics.shadow.labels(name, "sent").inc()
        task = asyncio.create_task(self._run(name, shadow, answered))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, name: str, shadow: ShadowConfig, answered: Answered) -> None:
        result = "failed"
        try:
            await asyncio.sleep(_BEHIND_S)
            started = time.monotonic()
            with model_call(
                answered.job, shadow.variant, self.clients[name].app, shadow=name
            ) as span:
                reply = await self._ask(self.clients[name], shadow, answered.job, started, span)
            duration_s = time.monotonic() - started
            self._events.record(_outcome(name, shadow, answered, reply, duration_s))
            result = "answered" if reply.error is None else "failed"
        except Exception:  # a bug in here must not be the event loop's
            logger.exception("copy failed", extra={"inference_id": answered.job.inference_id})
        finally:
            self._in_flight[name] -= 1
            self._metrics.shadow_in_flight.labels(name).dec()
            self._metrics.shadow.labels(name, result).inc()

    async def _ask(
        self, client: VariantClient, shadow: ShadowConfig, job: Job, started: float, span: Span
    ) -> _Reply:
        request = replace(
            job.request,
            request_id=f"shadow-{job.request.request_id}",
            timeout_s=shadow.timeout_s,
            first_token_s=None,
            priority="background",
        )
        reply = _Reply()
        # Without a key nobody joins this generation, and it joins nobody's.
        call = ModelCall(request=request, flight_key=None, trace=span.context)
        try:
            async with (
                asyncio.timeout(shadow.timeout_s),
                aclosing(client.call(call, stream=job.stream)) as batches,
            ):
                async for batch in batches:
                    reply.identity = reply.identity or batch.identity
                    if reply.ttft_s is None:
                        reply.ttft_s = time.monotonic() - started
                    reply.chunks.extend(batch.chunks)
                    if span.recording:
                        describe_reply(span, batch)
            if not reply.chunks:
                raise EngineFailed("the model returned nothing")
        except TimeoutError:
            reply.error = DeadlineExceeded(f"no answer within {shadow.timeout_s:g} s")
        except RequestError as error:
            reply.error = error
        if reply.error is not None:
            span.fail(reply.error)
        return reply


def _wanted(name: str, shadow: ShadowConfig, answered: Answered) -> bool:
    """Return whether a request is in a shadow's sample, the same for the same inference id."""
    job = answered.job
    if job.decision.variant != shadow.of or job.decision.exposure in _BY_HAND:
        return False
    if answered.cache not in _NEW or not _comparable(answered.error):
        return False
    bucket = bucket_of(job.inference_id, salt=name, domain="shadow")
    return bucket < shadow.percent / 100 * N_BUCKETS


def _comparable(error: BaseException | None) -> bool:
    """Whether a request ended in a way that says something about the variant that had it."""
    if error is None:
        return True
    return isinstance(error, RequestError) and not isinstance(error, ClientError)


def _outcome(
    name: str, shadow: ShadowConfig, answered: Answered, reply: _Reply, duration_s: float
) -> Outcome:
    job = answered.job
    whole = merge_chunks(reply.chunks) if reply.chunks else None
    labels = AnswerLabels()
    if whole is not None and reply.error is None and job.request.messages:
        labels = labels_of(whole.text)
    return Outcome(
        inference_id=f"shadow-{name}-{job.inference_id}",
        request_id=job.inference_id,
        finished_at=time.time(),
        served_model=job.decision.served_model,
        tenant=job.tenant,
        variant=shadow.variant,
        experiment=name,
        version=None,
        unit=job.decision.unit,
        exposure="shadow",
        status="ok" if reply.error is None else "error",
        error_code=None if reply.error is None else reply.error.code,
        cache="bypass",
        stream=job.stream,
        finish_reason=None if whole is None else whole.finish_reason,
        prompt_tokens=None if whole is None else whole.usage.prompt_tokens,
        completion_tokens=None if whole is None else whole.usage.completion_tokens,
        duration_s=answered.overhead_s + duration_s,
        ttft_s=None if reply.ttft_s is None else answered.overhead_s + reply.ttft_s,
        retries=0,
        config_hash=job.config_hash,
        model_sha256=reply.identity.model_sha256 if reply.identity else "",
        intent=labels.intent,
        confidence=labels.confidence,
    )
