"""Traces: what happened to one request, where, and for how long.

`Tracing` is the tracing of one process. It can be switched on, off and to another collector while
requests run. Off, it costs some calls per request that do nothing, those of `NOT_TRACED`: no thread
runs and no exporter is imported. On, whether a request is recorded is decided once, where its trace
begins; a recorded span is a plain object that is handed to a thread when it ends (`trace_export`).
No span holds prompts, answers, session ids or API keys.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from serve_app.config import TracingConfig
from serve_app.errors import RequestError
from serve_app.telemetry.metrics import TraceCounters
from serve_app.telemetry.trace_context import (
    TraceContext,
    in_sample,
    new_span_id,
    new_trace_id,
    parse,
)
from serve_app.telemetry.trace_export import MakeExporter, SpanPump, otlp_exporter

Value = str | bool | int | float | Sequence[str] | None
"""Value of an attribute; None leaves the attribute out."""
Kind = Literal["server", "client", "internal"]

_ABANDONED = (asyncio.CancelledError, GeneratorExit)


class Span:
    """A span that is not recorded: nothing it is told costs anything.

    Args:
        context: What is handed on, so that a decision not to record holds for the whole trace;
            None where there is no trace at all.
    """

    __slots__ = ("context",)
    recording = False
    """Whether it is worth gathering attributes."""

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        """Note a moment."""

    def relate(self, other: TraceContext) -> None:
        """Link to a span that this one depends on without being inside it."""

    def child(
        self,
        name: str,  # noqa: ARG002 (of use to a span that is recorded; so it is below)
        kind: Kind = "internal",  # noqa: ARG002
        *,
        at: float | None = None,  # noqa: ARG002
    ) -> "Span":
        """Begin a span inside this one.

        Args:
            name: Short, from a closed set.
            kind: Its role between two processes.
            at: Monotonic seconds of its start; None is now.
        """
        return self

    def fail(self, error: BaseException) -> None:
        """Note what ended the work."""

    def end(self, *, at: float | None = None) -> None:
        """End and report the span; only the first call counts."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(error)
        self.end()


NOT_TRACED = Span(None)
"""The span of everything while tracing is off."""


class RecordedSpan(Span):
    """A span of a sampled trace. Belongs to one task at a time.

    Args:
        report: Takes it when it has ended.
        name: Short, from a closed set.
        kind: Its role between two processes.
        context: Its own.
        parent: Span id of its parent, None if it begins the trace.
        remote: Whether the parent is in another process.
        link: A span of another trace that caused this one.
        epoch_ns: Wall clock minus monotonic clock, the same for all spans of one request: so their
            lengths and order are those of the monotonic clock.
        at: Monotonic seconds of its start.
    """

    __slots__ = (
        "_epoch_ns",
        "_report",
        "attributes",
        "context",
        "end_ns",
        "error_type",
        "events",
        "is_fault",
        "kind",
        "links",
        "name",
        "parent",
        "remote",
        "start_ns",
    )
    recording = True
    context: TraceContext

    def __init__(
        self,
        report: "Callable[[RecordedSpan], None]",
        name: str,
        kind: Kind,
        *,
        context: TraceContext,
        parent: str | None,
        remote: bool,
        link: TraceContext | None,
        epoch_ns: int,
        at: float,
    ) -> None:
        super().__init__(context)
        self._report = report
        self._epoch_ns = epoch_ns
        self.name = name
        self.kind = kind
        self.parent = parent
        self.remote = remote
        self.links = [] if link is None else [link]
        self.attributes: dict[str, Value] = {}
        self.events: list[tuple[str, int, Mapping[str, Value]]] = []
        self.error_type: str | None = None
        self.is_fault = False
        """Whether the error is the server's, not the client's."""
        self.start_ns = self._ns(at)
        self.end_ns: int | None = None

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""
        self.attributes.update(attributes)

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        """Note a moment."""
        self.events.append((name, self._ns(time.monotonic()), attributes or {}))

    def relate(self, other: TraceContext) -> None:
        """Link to a span that this one depends on without being inside it."""
        self.links.append(other)

    def child(self, name: str, kind: Kind = "internal", *, at: float | None = None) -> Span:
        """Begin a span inside this one."""
        return RecordedSpan(
            self._report,
            name,
            kind,
            context=self.context._replace(span_id=new_span_id()),
            parent=self.context.span_id,
            remote=False,
            link=None,
            epoch_ns=self._epoch_ns,
            at=time.monotonic() if at is None else at,
        )

    def fail(self, error: BaseException) -> None:
        """Note what ended the work: its code, never its message, which may quote the request."""
        if isinstance(error, RequestError):
            self.error_type, self.is_fault = error.code, error.status >= 500
        elif isinstance(error, _ABANDONED):
            self.error_type, self.is_fault = "cancelled", False
        else:
            self.error_type, self.is_fault = type(error).__name__, True

    def end(self, *, at: float | None = None) -> None:
        """End and report the span; only the first call counts."""
        if self.end_ns is None:
            self.end_ns = self._ns(time.monotonic() if at is None else at)
            self._report(self)

    def _ns(self, at: float) -> int:
        return self._epoch_ns + int(at * 1e9)


class Tracing:
    """The tracing of one process.

    Args:
        service: Name of what runs here, `service.name`.
        instance: Id of this replica, `service.instance.id`.
        counters: Count spans that were delivered, and those that were not.
        exporter: Makes what spans are sent with. Called in the thread that sends.
    """

    def __init__(
        self,
        service: str,
        instance: str,
        counters: TraceCounters,
        *,
        exporter: MakeExporter = otlp_exporter,
    ) -> None:
        self._service = service
        self._instance = instance
        self._counters = counters
        self._exporter = exporter
        self._config = TracingConfig()
        self._pump: SpanPump | None = None

    @property
    def enabled(self) -> bool:
        """Whether there are any traces."""
        return self._pump is not None

    def configure(self, config: TracingConfig) -> None:
        """Put a configuration in force. Never blocks; spans under way take the new way."""
        if config == self._config:
            return
        pump = None
        if config.enabled:
            pump = SpanPump(
                config,
                {"service.name": self._service, "service.instance.id": self._instance},
                self._counters,
                self._exporter,
            )
        previous, self._pump, self._config = self._pump, pump, config
        if previous is not None:
            previous.stop()

    def receive(
        self, name: str, traceparent: str | None, tracestate: str, *, at: float | None = None
    ) -> Span:
        """Begin the span of a request from outside.

        Args:
            name: Name of the span.
            traceparent: Header of the request, None if there is not exactly one.
            tracestate: Header of the request.
            at: Monotonic seconds of its receipt; None is now.
        """
        if self._pump is None:
            return NOT_TRACED
        client = parse(traceparent, tracestate)
        if client is not None and self._config.follow_clients:
            context = client._replace(span_id=new_span_id())
            return self._begin(name, context, client.span_id, None, at)
        trace_id = new_trace_id()
        sampled = in_sample(trace_id, self._config.sample)
        context = TraceContext(trace_id, new_span_id(), sampled)
        return self._begin(name, context, None, client, at)

    def resume(self, caller: TraceContext | None, name: str) -> Span:
        """Begin the span of a call from another of carril's processes."""
        if self._pump is None or caller is None:
            return NOT_TRACED
        context = caller._replace(span_id=new_span_id())
        return self._begin(name, context, caller.span_id, None, None)

    def close(self, timeout_s: float) -> None:
        """Send what there is, for so long at most, and end."""
        pump, self._pump = self._pump, None
        self._config = TracingConfig()
        if pump is not None:
            pump.stop()
            pump.join(timeout_s)

    def _begin(
        self,
        name: str,
        context: TraceContext,
        parent: str | None,
        link: TraceContext | None,
        at: float | None,
    ) -> Span:
        if not context.sampled or self._pump is None:
            return Span(context)
        return RecordedSpan(
            self._report,
            name,
            "server",
            context=context,
            parent=parent,
            remote=parent is not None,
            link=link,
            epoch_ns=time.time_ns() - time.monotonic_ns(),
            at=time.monotonic() if at is None else at,
        )

    def _report(self, span: RecordedSpan) -> None:
        pump = self._pump
        if pump is None:
            self._counters.dropped.labels("stopped").inc()
        else:
            pump.put(span)
