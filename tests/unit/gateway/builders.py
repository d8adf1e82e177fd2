"""A gateway without Ray: everything but the network between gateway and model is the real thing."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from experiments.events.feedback_keys import StoredKey
from experiments.events.records import (
    Enrolment,
    Event,
    Exposure,
    Feedback,
    Kept,
    Outcome,
)
from experiments.events.spool import Spool
from serve_app.config import (
    GatewayConfig,
    ModelConfig,
    RetryConfig,
    content_hash,
    parse_gateway_config,
    parse_model_config,
)
from serve_app.engines.echo import EchoEngine
from serve_app.engines.protocol import GenerationChunk, TokenLogprob, TopLogprob, Usage
from serve_app.errors import RequestError
from serve_app.events.client import EventClient
from serve_app.gateway.active import Active
from serve_app.gateway.admission import Admission
from serve_app.gateway.cache import ResponseCache
from serve_app.gateway.capture import TextCapture
from serve_app.gateway.feedback import FeedbackService
from serve_app.gateway.generation import Generator
from serve_app.gateway.inference_ids import InferenceIds
from serve_app.gateway.policy import Policy
from serve_app.gateway.readiness import GatewayReport, readiness_body
from serve_app.gateway.retry import RetryBudget
from serve_app.gateway.routes import build_api
from serve_app.gateway.service import Service
from serve_app.gateway.shadow import ShadowTraffic
from serve_app.gateway.sticky import StickyUnits
from serve_app.gateway.variants import VariantClient
from serve_app.model.calls import ModelCall, ModelIdentity, ModelState, ReplyBatch
from serve_app.telemetry.merge import render, snapshot
from serve_app.telemetry.metrics import GatewayMetrics
from serve_app.telemetry.tracing import Tracing

CHAT = {"model": "okla-chat", "messages": [{"role": "user", "content": "klk, busco una yipeta"}]}
RAW_CONFIG: dict[str, Any] = {
    "models": {
        "okla-chat": {"experiment": "okla-v1-v2", "defaults": {"temperature": 0}},
        "okla-chat:text": {"experiment": "okla-v1-v2", "content": "text"},
        "fixed": {"variant": "candidate"},
    },
    "variants": {"stable": {"app": "okla-stable"}, "candidate": {"app": "okla-candidate"}},
    "experiments": {
        "okla-v1-v2": {
            "salt": "okla-v1-v2",
            "control": "stable",
            "allocation": {"stable": 90, "candidate": 10},
        }
    },
}


def raw_config(**changes: Any) -> dict[str, Any]:
    """Return a gateway configuration with other top-level keys."""
    return RAW_CONFIG | changes


def gateway_config(**changes: Any) -> GatewayConfig:
    return parse_gateway_config(raw_config(**changes))


def model_config(**changes: Any) -> ModelConfig:
    return parse_model_config({"engine": "echo", **changes})


def identity(**changes: Any) -> ModelIdentity:
    fields: dict[str, Any] = {
        "replica": "r1",
        "engine": "echo",
        "engine_version": "1",
        "model_name": "echo",
        "model_sha256": "ab" * 32,
        "fingerprint": "cd" * 32,
        "has_answer_schema": False,
        "config_hash": "0123456789ab",
    }
    return ModelIdentity(**(fields | changes))


def chunk(text: str = "hola", **changes: Any) -> GenerationChunk:
    fields: dict[str, Any] = {"usage": Usage(prompt_tokens=3, completion_tokens=1)}
    return GenerationChunk(text=text, **(fields | changes))


def logprob(text: str = "hola", value: float | None = -0.5) -> TokenLogprob:
    top = TopLogprob(token=text, token_bytes=text.encode(), logprob=value or 0.0)
    return TokenLogprob(token=text, token_bytes=text.encode(), logprob=value, top=(top,))


class EchoVariant(VariantClient):
    """A variant client whose replica is an echo engine in this process."""

    def __init__(
        self, name: str, metrics: GatewayMetrics, config: ModelConfig, retry: RetryConfig
    ) -> None:
        super().__init__(name, f"okla-{name}", RetryBudget(retry), metrics)
        self.engine = EchoEngine(config)
        self.calls: list[ModelCall] = []
        self.faults: list[tuple[int, Exception]] = []
        """(chunks before it, error) of the next attempts."""
        sha256 = content_hash(config)
        self.weights = identity(model_sha256=sha256, fingerprint=sha256[::-1], replica=name)

    async def refresh(self) -> None:
        self.identity = self.weights
        self.states = [
            ModelState(
                replica=self.name,
                state="ready",
                identity=self.weights,
                config_hash=self.weights.config_hash,
                error=None,
            )
        ]

    async def _attempt(self, call: ModelCall, *, stream: bool) -> AsyncGenerator[ReplyBatch, None]:
        self.calls.append(call)
        n_before, error = self.faults.pop(0) if self.faults else (0, None)
        gathered: list[GenerationChunk] = []
        async for piece in self.engine.generate(call.request):
            if error is not None and len(gathered) >= n_before:
                raise error
            gathered.append(piece)
            if stream:
                first = self.weights if len(gathered) == 1 else None
                yield ReplyBatch(chunks=(piece,), identity=first)
        if error is not None:
            raise error
        if not stream:
            yield ReplyBatch(chunks=tuple(gathered), identity=self.weights)


class Gateway:
    """A whole gateway: HTTP in, echo engines inside, events in a list."""

    def __init__(
        self,
        directory: Path,
        *,
        engines: dict[str, dict[str, Any]] | None = None,
        **changes: Any,
    ) -> None:
        self.config = config = gateway_config(**changes)
        self.metrics = GatewayMetrics()
        self.sent_spans = InMemorySpanExporter()
        self.tracing = Tracing(
            "gateway", "g1", self.metrics.traces, exporter=lambda _: self.sent_spans
        )
        self.tracing.configure(config.tracing)
        self.stored: list[Event] = []
        self.refuse_events = False
        self.ids = InferenceIds(b"secret of the tests")
        self.events = EventClient(
            self._append, Spool(directory, "test"), config.events, self.metrics
        )
        engines = engines or {}
        self.variants: dict[str, EchoVariant] = {
            name: EchoVariant(
                name,
                self.metrics,
                model_config(**({"echo": {"tag": name}} | engines.get(name, {}))),
                config.retry,
            )
            for name in config.variants
        }
        self.cache = ResponseCache(config.cache) if config.cache.enabled else None
        self.capture = TextCapture(config.capture, self.events, self.metrics)
        self.generator = Generator(self.variants, self.cache, self.events)
        self.shadow = ShadowTraffic(
            config.shadow,
            {name: self.variants[shadow.variant] for name, shadow in config.shadow.items()},
            self.events,
            self.metrics,
        )
        self.active: Active | None = Active(
            config=config,
            policy=Policy(config),
            sticky=StickyUnits(self.events, self.metrics),
            variants=dict(self.variants),
            service=Service(
                self.generator,
                self.events,
                self.capture,
                self.shadow,
                self.metrics,
            ),
            shadow=self.shadow,
            admission=Admission(config.limits),
            ids=self.ids,
            feedback=FeedbackService(config, self.events, self.ids, self._stored_key, self.metrics),
            tracing=self.tracing,
        )
        self.api = build_api(self)

    async def _append(self, events: Sequence[Event]) -> Sequence[Kept]:
        await asyncio.sleep(0)
        if self.refuse_events:
            raise OSError("the disk is gone")
        self.stored.extend(event for event in events if not isinstance(event, Enrolment))
        return [self._first(event.exposure) for event in events if isinstance(event, Enrolment)]

    def _first(self, exposure: Exposure) -> Kept:
        """Keep the first exposure of a unit, as the store does."""
        for known in self.exposures():
            if (known.experiment, known.version, known.unit) == (
                exposure.experiment,
                exposure.version,
                exposure.unit,
            ):
                return Kept(known.variant, known.probability, known.bucket, known.config_hash)
        self.stored.append(exposure)
        return Kept(exposure.variant, exposure.probability, exposure.bucket, exposure.config_hash)

    def _stored_key(self, idempotency: str) -> StoredKey | None:
        for vote in self.votes():
            if vote.idempotency == idempotency:
                return StoredKey(vote.feedback_id, vote.request_hash)
        return None

    def count_refusal(self, error: RequestError) -> None:
        self.metrics.refused.labels(error.code).inc()

    async def readiness(self) -> dict[str, Any]:
        for variant in self.variants.values():
            await variant.refresh()
        report = GatewayReport(replica="g1", config=self.config.config_hash, error=None)
        return readiness_body([report], list(self.variants.values()))

    async def metrics_page(self) -> bytes:
        self.metrics.refresh(list(self.variants))
        return render([snapshot(self.metrics.registry, {"replica": "g1"})])

    def client(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(
                self.api, client=("127.0.0.1", 1), raise_app_exceptions=False
            ),
            base_url="http://gateway",
            headers=headers,
        )

    def exposures(self) -> list[Exposure]:
        return [event for event in self.stored if isinstance(event, Exposure)]

    def outcomes(self) -> list[Outcome]:
        return [event for event in self.stored if isinstance(event, Outcome)]

    def votes(self) -> list[Feedback]:
        return [event for event in self.stored if isinstance(event, Feedback)]

    def n_generations(self) -> int:
        return sum(len(variant.calls) for variant in self.variants.values())


def batch(*chunks: GenerationChunk, first: bool = True) -> ReplyBatch:
    return ReplyBatch(chunks=chunks, identity=identity() if first else None)


def finished(text: str = "hola", **changes: Any) -> GenerationChunk:
    return replace(chunk(text), finish_reason="stop", **changes)
