"""Answering prepared requests: run the jobs, render, count, and record the outcome."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from experiments.events.records import CacheState, Outcome, OutcomeStatus
from serve_app.engines.protocol import GenerationChunk, Usage
from serve_app.errors import InternalError, RequestError, error_body
from serve_app.events.client import EventClient
from serve_app.gateway.answer_labels import AnswerLabels, labels_of
from serve_app.gateway.capture import TextCapture
from serve_app.gateway.generation import Generation, Generator
from serve_app.gateway.prepare import Inbound, Prepared
from serve_app.gateway.render import DONE, ChatRenderer, CompletionRenderer, sse
from serve_app.gateway.response_text import ResponseText, response_of
from serve_app.gateway.shadow import Answered, ShadowTraffic
from serve_app.gateway.spans import describe_exchange
from serve_app.model.calls import merge_chunks
from serve_app.telemetry.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

_SHARED: frozenset[CacheState] = frozenset({"hit", "join"})
"""Answers that another request paid for: left out of latency and token statistics."""
_CACHE_RANK: dict[CacheState, int] = {"hit": 0, "join": 1, "miss": 2, "bypass": 3}


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request on its way, with what its headers and its outcome will say."""

    prepared: Prepared
    inbound: Inbound
    request_id: str
    config_hash: str
    started: float = field(default_factory=time.monotonic)
    first_call: float | None = None
    """Monotonic time at which the first of the request's jobs went to a model."""
    last_reply: float = 0.0
    """Monotonic time of the last word from a model so far."""
    ttft_s: float | None = None
    cache: CacheState = "bypass"
    model_sha256: str = ""
    fingerprint: str = ""
    retries: int = 0
    finish_reason: str | None = None
    usages: list[Usage] = field(default_factory=list)
    answer: str | None = None
    """The whole answer as the model wrote it; None until there is one, and for batches."""
    ended: float | None = None
    """Monotonic time at which the answer was ready; None while it is not."""

    @property
    def waited_s(self) -> float:
        """Seconds during which a model, not the gateway, had the request."""
        return 0.0 if self.first_call is None else self.last_reply - self.first_call

    def model_wait(self, called_at: float | None) -> None:
        """Note that a model has had the request since `called_at`, until now."""
        if called_at is None:
            return
        self.first_call = called_at if self.first_call is None else min(self.first_call, called_at)
        self.last_reply = time.monotonic()

    def headers(self) -> dict[str, str]:
        """Return the headers that explain the decision."""
        decision = self.prepared.decision
        overhead_ms = (time.monotonic() - self.started - self.waited_s) * 1000
        headers = {
            "x-carril-variant": decision.variant,
            "x-carril-exposure": decision.exposure,
            "x-carril-cache": self.cache,
            "x-carril-config": self.config_hash,
            "x-carril-overhead-ms": f"{overhead_ms:.2f}",
            "cache-control": "no-store",
            "vary": "Authorization",
        }
        if self.model_sha256:
            headers["x-carril-model"] = self.model_sha256[:12]
        if decision.experiment is not None:
            headers["x-carril-experiment"] = decision.experiment
        if decision.reason is not None:
            headers["x-carril-reason"] = decision.reason
        return headers


class Service:
    """Runs requests.

    Args:
        generator: Makes generations from jobs.
        events: Where outcomes go.
        capture: Keeps texts, where that is on.
        shadow: Gets copies of what was answered.
        metrics: The gateway's series.
    """

    def __init__(
        self,
        generator: Generator,
        events: EventClient,
        capture: TextCapture,
        shadow: ShadowTraffic,
        metrics: GatewayMetrics,
    ) -> None:
        self._generator = generator
        self._events = events
        self._capture = capture
        self._shadow = shadow
        self._metrics = metrics

    async def complete(self, exchange: Exchange) -> bytes:
        """Return the body of a finished answer. Call `account` once it is on its way.

        Raises:
            RequestError: If any of the jobs fails.
        """
        self._enter(exchange)
        try:
            jobs = exchange.prepared.jobs
            if len(jobs) == 1:
                answers = [await self._finish(exchange, await self._generator.open(jobs[0]))]
                exchange.answer = answers[0].text
            else:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._run(exchange, job)) for job in jobs]
                answers = [task.result() for task in tasks]
            text_only = exchange.prepared.text_only
            shown = [
                (answer, response_of(answer.text) if text_only else answer.text)
                for answer in answers
            ]
            body = orjson.dumps(self._renderer(exchange).complete(shown, exchange.fingerprint))
        except ExceptionGroup as group_error:
            error = _first_request_error(group_error)
            self._leave(exchange, error)
            raise error from group_error
        except BaseException as error:
            self._leave(exchange, error)
            raise
        exchange.ended = time.monotonic()
        describe_exchange(exchange, None)  # here, because the span ends before the answer leaves
        return body

    def account(self, exchange: Exchange) -> None:
        """Count and record an answer from `complete`: after the client has it, not before."""
        self._leave(exchange, None)

    def turn_away(self, exchange: Exchange, error: BaseException) -> None:
        """Count and record a request that ends before `complete`, though its unit is enrolled."""
        self._enter(exchange)
        exchange.ended = time.monotonic()
        self._leave(exchange, error)

    async def open_stream(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """Return the events of a stream, once its first token is there. Iterate or close it.

        Raises:
            RequestError: If it fails before the first token; later failures are events.
        """
        self._enter(exchange)
        try:
            generation = await self._generator.open(exchange.prepared.jobs[0])
        except BaseException as error:
            self._leave(exchange, error)
            raise
        self._note(exchange, generation)
        events = self._stream(exchange, generation)
        # Closing a generator that never ran would skip its `finally`, and with it the accounts.
        await anext(events)
        return events

    async def _run(self, exchange: Exchange, job: Any) -> GenerationChunk:
        return await self._finish(exchange, await self._generator.open(job))

    async def _finish(self, exchange: Exchange, generation: Generation) -> GenerationChunk:
        self._note(exchange, generation)
        async with aclosing(generation.batches()) as batches:
            chunks = [chunk async for batch in batches for chunk in batch]
        exchange.model_wait(generation.called_at)
        answer = merge_chunks(chunks)
        exchange.usages.append(answer.usage)
        exchange.finish_reason = answer.finish_reason
        return answer

    async def _stream(
        self, exchange: Exchange, generation: Generation
    ) -> AsyncGenerator[bytes, None]:
        renderer = self._renderer(exchange)
        fingerprint = exchange.fingerprint
        extractor = ResponseText() if exchange.prepared.text_only else None
        failure: BaseException | None = None
        raw: list[str] = []
        last: GenerationChunk | None = None
        try:
            yield b""
            opening = renderer.opening(fingerprint)
            # What came together leaves together: a write costs more than the events in it.
            ready = [] if opening is None else [sse(opening)]
            async with aclosing(generation.batches()) as batches:
                async for batch in batches:
                    for chunk in batch:
                        last = chunk
                        text = chunk.text
                        raw.append(text)
                        if extractor is not None:
                            text = extractor.feed(text)
                        event = renderer.piece(chunk, text, fingerprint)
                        if event is not None:
                            ready.append(sse(event))
                    if ready:
                        yield b"".join(ready)
                        ready.clear()
            if last is None or last.finish_reason is None:
                raise InternalError("the answer ended without a reason")
            if extractor is not None and not extractor.found and last.text is not None:
                event = renderer.piece(last, "".join(raw), fingerprint)
                if event is not None:
                    ready.append(sse(event))
            exchange.finish_reason = last.finish_reason
            exchange.answer = "".join(raw)
            ready.append(sse(renderer.closing(last.finish_reason, fingerprint)))
            if exchange.prepared.include_usage:
                ready.append(sse(renderer.usage(last.usage, fingerprint)))
            ready.append(DONE)
            yield b"".join(ready)
        except RequestError as error:
            failure = error
            yield sse(error_body(error, exchange.request_id))
        except Exception as error:  # the last barrier: a stream must not end without a word
            logger.exception("stream failed", extra={"request_id": exchange.request_id})
            failure = error
            yield sse(error_body(InternalError("the stream failed"), exchange.request_id))
        except BaseException as error:
            failure = error
            raise
        finally:
            if last is not None:
                exchange.usages.append(last.usage)
            exchange.model_wait(generation.called_at)
            try:
                await generation.close()
            finally:
                self._leave(exchange, failure)

    def _note(self, exchange: Exchange, generation: Generation) -> None:
        identity = generation.identity
        exchange.model_sha256 = identity.model_sha256
        exchange.fingerprint = identity.system_fingerprint
        exchange.retries += generation.retries
        exchange.model_wait(generation.called_at)
        first = exchange.ttft_s is None
        if first or _CACHE_RANK[generation.cache] > _CACHE_RANK[exchange.cache]:
            exchange.cache = generation.cache
        if first:
            exchange.ttft_s = time.monotonic() - exchange.started
            if exchange.prepared.stream:
                exchange.inbound.span.event("first_token")

    def _renderer(self, exchange: Exchange) -> ChatRenderer | CompletionRenderer:
        kind = ChatRenderer if exchange.prepared.kind == "chat" else CompletionRenderer
        return kind(exchange.inbound.inference_id, exchange.prepared.model, int(time.time()))

    def _enter(self, exchange: Exchange) -> None:
        decision = exchange.prepared.decision
        self._metrics.requests.labels(decision.variant).inc()
        self._metrics.active.labels(decision.variant).inc()
        self._metrics.exposures.labels(
            decision.experiment or "", decision.variant, decision.exposure
        ).inc()
        if decision.reason is not None:
            self._metrics.assignments.labels(decision.served_model, decision.reason).inc()

    def _leave(self, exchange: Exchange, error: BaseException | None) -> None:
        """Count and record how the request ended. Called exactly once per `_enter`."""
        if exchange.ended is None:
            describe_exchange(exchange, error)
        decision = exchange.prepared.decision
        duration_s = (exchange.ended or time.monotonic()) - exchange.started
        status, code = _status_of(error)
        metrics, variant = self._metrics, decision.variant
        metrics.active.labels(variant).dec()
        if status == "ok":
            metrics.successes.labels(variant).inc()
        elif status == "error":
            metrics.errors.labels(variant, code).inc()
        else:
            metrics.errors.labels(variant, "client_disconnected").inc()
        if exchange.model_sha256:
            metrics.cache.labels(variant, exchange.cache).inc()
        prompt = sum(usage.prompt_tokens for usage in exchange.usages)
        completion = sum(usage.completion_tokens for usage in exchange.usages)
        if exchange.cache not in _SHARED and exchange.usages:
            metrics.duration_ms.labels(variant).observe(duration_s * 1000)
            metrics.prompt_tokens.labels(variant).inc(prompt)
            metrics.completion_tokens.labels(variant).inc(completion)
            metrics.tokens.labels(variant).inc(prompt + completion)
            if exchange.ttft_s is not None:
                metrics.ttft_s.labels(variant).observe(exchange.ttft_s)
        if status == "ok":
            metrics.overhead_s.observe(max(0.0, duration_s - exchange.waited_s))
        labels = self._learn(exchange) if status == "ok" else AnswerLabels()
        self._events.record(
            Outcome(
                inference_id=exchange.inbound.inference_id,
                request_id=exchange.request_id,
                finished_at=time.time(),
                served_model=decision.served_model,
                tenant=exchange.inbound.caller.tenant,
                variant=variant,
                experiment=decision.experiment,
                version=decision.version,
                unit=decision.unit,
                exposure=decision.exposure,
                status=status,
                error_code=code or None,
                cache=exchange.cache,
                stream=exchange.prepared.stream,
                finish_reason=exchange.finish_reason,
                prompt_tokens=prompt if exchange.usages else None,
                completion_tokens=completion if exchange.usages else None,
                duration_s=duration_s,
                ttft_s=exchange.ttft_s,
                retries=exchange.retries,
                config_hash=exchange.config_hash,
                model_sha256=exchange.model_sha256,
                intent=labels.intent,
                confidence=labels.confidence,
            )
        )
        logger.info(
            "request",
            extra={
                "request_id": exchange.request_id,
                "inference_id": exchange.inbound.inference_id,
                "variant": variant,
                "served_model": decision.served_model,
                "exposure": decision.exposure,
                "status": status,
                "error_code": code or None,
                "cache": exchange.cache,
                "model_sha256": exchange.model_sha256[:12],
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "finish_reason": exchange.finish_reason,
                "duration_ms": round(duration_s * 1000, 2),
                "ttft_ms": round(exchange.ttft_s * 1000, 2) if exchange.ttft_s else None,
                "retries": exchange.retries,
            },
        )
        if len(exchange.prepared.jobs) == 1:
            self._shadow.offer(
                Answered(
                    job=exchange.prepared.jobs[0],
                    cache=exchange.cache,
                    error=error,
                    overhead_s=max(0.0, duration_s - exchange.waited_s),
                )
            )

    def _learn(self, exchange: Exchange) -> AnswerLabels:
        """Return what a finished answer calls itself, and keep its text where that is wanted."""
        answer, job = exchange.answer, exchange.prepared.jobs[0]
        if answer is None or exchange.prepared.kind != "chat":
            return AnswerLabels()
        unit = exchange.prepared.decision.unit
        if self._capture.wants(inference_id=job.inference_id, unit=unit):
            self._capture.keep(
                inference_id=job.inference_id,
                tenant=job.tenant,
                messages=job.request.messages or (),
                answer=answer,
            )
        return labels_of(answer)


def _status_of(error: BaseException | None) -> tuple[OutcomeStatus, str]:
    if error is None:
        return "ok", ""
    if isinstance(error, RequestError):
        return "error", error.code
    if isinstance(error, Exception):
        return "error", "internal_error"
    return "aborted", ""  # cancelled, or closed by a client that left


def _first_request_error(group: "ExceptionGroup[Exception]") -> RequestError:
    for error in group.exceptions:
        if isinstance(error, RequestError):
            return error
    logger.error("request failed", exc_info=group)
    return InternalError("the request failed")
