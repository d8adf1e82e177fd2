"""Sending spans to a collector, in a thread of its own, which is where OpenTelemetry is imported.

Requests only append to a bounded queue. What does not fit is dropped and counted, and so is what
the collector does not take; neither reaches a request.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from serve_app import __version__
from serve_app.config import TracingConfig
from serve_app.telemetry.metrics import TraceCounters

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from serve_app.telemetry.tracing import RecordedSpan

logger = logging.getLogger(__name__)

_GATHER_S = 0.5
"""Spans that end within this time after the first one are sent together."""
_BATCH_SPANS = 64
"""Encoding holds the interpreter; a batch this small holds it for a few milliseconds."""
_BREATH_S = 0.002
"""Pause between two batches, in which requests go on."""
_TRACES_PATH = "v1/traces"

MakeExporter = Callable[[TracingConfig], "SpanExporter"]


def otlp_exporter(config: TracingConfig) -> "SpanExporter":
    """Return an exporter that speaks OTLP over HTTP, with protobuf.

    What the configuration does not say, above all headers with secrets, it takes from
    OpenTelemetry's own environment variables.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # It logs every failed attempt, with the address; that spans are lost is told by `SpanPump`.
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
    endpoint = None
    if config.endpoint is not None:
        endpoint = f"{config.endpoint.rstrip('/')}/{_TRACES_PATH}"
    return OTLPSpanExporter(endpoint=endpoint)


class SpanPump:
    """Takes ended spans and sends them in batches.

    Args:
        config: Where to, and how many may wait.
        resource: Attributes of this process.
        counters: Count what was delivered and what was dropped.
        exporter: Makes what spans are sent with.
    """

    def __init__(
        self,
        config: TracingConfig,
        resource: Mapping[str, str],
        counters: TraceCounters,
        exporter: MakeExporter,
    ) -> None:
        self._config = config
        self._attributes = resource
        self._counters = counters
        self._make_exporter = exporter
        self._exporter: SpanExporter | None = None
        self._queue: deque[RecordedSpan] = deque()
        self._filled = threading.Event()
        self._stopping = threading.Event()
        self._delivers = True
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="carril-traces", daemon=True)
        self._thread.start()

    def put(self, span: "RecordedSpan") -> None:
        """Queue a span, or drop it. Never blocks and never raises."""
        if len(self._queue) >= self._config.max_queued:
            self._drop([span], "queue_full")
            return
        self._queue.append(span)
        if self._ended:  # looked at last, as the thread looks at the queue last
            self._drop_rest()
        elif not self._filled.is_set():
            self._filled.set()

    def stop(self) -> None:
        """Let the thread send what there is and end. Returns at once."""
        self._stopping.set()
        self._filled.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end; what is left after the time is dropped and counted."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            if self._exporter is not None:
                self._exporter.shutdown()  # ends the wait between two attempts
            self._ended = True
            self._drop_rest()

    def _run(self) -> None:
        try:
            resource = _resource(self._attributes)
            self._exporter = exporter = self._make_exporter(self._config)
            self._send_until_stopped(resource, exporter)
            exporter.shutdown()
        except Exception:  # nothing here may end a process that answers requests
            logger.exception("traces cannot be sent")
        self._ended = True
        self._drop_rest()

    def _send_until_stopped(self, resource: "Resource", exporter: "SpanExporter") -> None:
        while not self._stopping.is_set():
            self._filled.wait()
            self._stopping.wait(_GATHER_S)
            self._filled.clear()
            while batch := self._take(_BATCH_SPANS):
                self._send(batch, resource, exporter)
                time.sleep(_BREATH_S)
        while not self._ended and (batch := self._take(_BATCH_SPANS)):
            self._send(batch, resource, exporter)

    def _take(self, at_most: int) -> "list[RecordedSpan]":
        taken: list[RecordedSpan] = []
        with suppress(IndexError):  # another thread may be dropping
            while len(taken) < at_most:
                taken.append(self._queue.popleft())
        return taken

    def _drop_rest(self) -> None:
        self._drop(self._take(self._config.max_queued), "stopped")

    def _send(
        self, batch: "list[RecordedSpan]", resource: "Resource", exporter: "SpanExporter"
    ) -> None:
        try:
            result = exporter.export([_readable(span, resource) for span in batch])
            delivered, reason = result.name == "SUCCESS", "the collector did not take them"
        except Exception as error:  # an exporter's fault must not end the thread
            delivered, reason = False, type(error).__name__
        if delivered:
            self._counters.exported.inc(len(batch))
        else:
            self._drop(batch, "not_delivered")
        if delivered != self._delivers:  # told when it changes, not with every batch
            self._delivers = delivered
            if delivered:
                logger.info("traces are delivered again")
            else:
                logger.warning("traces are being lost", extra={"reason": reason})

    def _drop(self, spans: "list[RecordedSpan]", reason: str) -> None:
        if spans:
            self._counters.dropped.labels(reason).inc(len(spans))


def _resource(attributes: Mapping[str, str]) -> "Resource":
    from opentelemetry.sdk.resources import Resource

    common = {"service.namespace": "carril", "service.version": __version__}
    return Resource.create({**common, **attributes})


def _readable(span: "RecordedSpan", resource: "Resource") -> "ReadableSpan":
    """Return what exporters take.

    Made directly: its trace is sampled and its times are known, so there is nothing that a tracer
    could add but time.
    """
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import (
        Link,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        TraceState,
    )

    own = span.context
    state = TraceState.from_header([own.state]) if own.state else TraceState()

    def context(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int(trace_id, 16), int(span_id, 16), remote, flags, state)

    attributes = {key: value for key, value in span.attributes.items() if value is not None}
    if span.error_type is not None:
        attributes["error.type"] = span.error_type
    return ReadableSpan(
        name=span.name,
        context=context(own.trace_id, own.span_id, remote=False),
        parent=(
            None if span.parent is None else context(own.trace_id, span.parent, remote=span.remote)
        ),
        resource=resource,
        attributes=attributes,
        events=[
            Event(name, {k: v for k, v in given.items() if v is not None}, timestamp=at)
            for name, at, given in span.events
        ],
        links=[Link(context(link.trace_id, link.span_id, remote=True)) for link in span.links],
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode.ERROR if span.is_fault else StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("carril", __version__),
    )
