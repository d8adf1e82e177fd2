"""The span of a call in a model replica, and in it where the engine's time went."""

import time

from serve_app.engines.protocol import GenerationChunk, GenerationRequest, Timings
from serve_app.model.calls import ModelCall, ModelIdentity
from serve_app.telemetry import gen_ai
from serve_app.telemetry.logs import TRACE_ID
from serve_app.telemetry.tracing import Span, Tracing


def call_span(tracing: Tracing, call: ModelCall, app: str) -> Span:
    """Begin the span of a call, and let this task's log records name its trace."""
    if call.trace is not None:
        TRACE_ID.set(call.trace.trace_id)
    return tracing.resume(call.trace, f"generate {app}")


def describe_start(span: Span, identity: ModelIdentity, request: GenerationRequest) -> None:
    """Say who is going to answer; called once the model is there, which may have had to wake."""
    span.event("model_ready")
    span.set(gen_ai.asked(request, identity.model_name))
    span.set(
        {
            "gen_ai.response.model": identity.model_name,
            "carril.engine": identity.engine,
            "carril.engine.version": identity.engine_version,
            "carril.model.sha256": identity.model_sha256,
        }
    )


def describe_chunk(span: Span, chunk: GenerationChunk, *, first: bool) -> None:
    """Say what the engine gave; called with each piece, while the span is recorded."""
    if first:
        span.event("first_token")
    if chunk.finish_reason is None:
        return
    span.set(gen_ai.finished(chunk.finish_reason))
    span.set(gen_ai.used(chunk.usage))
    if chunk.timings is not None:
        _phases(span, chunk.timings)


def _phases(span: Span, timings: Timings) -> None:
    # Reckoned back from now, when the last piece came: what lies before is what the engine did
    # before it had the request in its queue.
    at = time.monotonic() - timings.queue_s - timings.prefill_s - timings.decode_s
    for name, duration_s in (
        ("queue", timings.queue_s),
        ("prefill", timings.prefill_s),
        ("decode", timings.decode_s),
    ):
        phase = span.child(name, at=at)
        at += duration_s
        phase.end(at=at)
