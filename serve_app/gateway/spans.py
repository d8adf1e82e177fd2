"""The spans of a request in the gateway, and what they say, in OpenTelemetry's words.

One span for the request, and in it one for making the exposure durable and one for each call of a
model. Attributes follow the semantic conventions for HTTP and for generative AI; `carril.*` is what
those have no name for. What a client wrote (messages, stop strings, session ids) is in none.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serve_app.engines.protocol import Usage
from serve_app.model.calls import ReplyBatch
from serve_app.telemetry import gen_ai
from serve_app.telemetry.logs import TRACE_ID
from serve_app.telemetry.tracing import NOT_TRACED, Span, Tracing

if TYPE_CHECKING:
    from serve_app.gateway.active import Active
    from serve_app.gateway.generation import Job
    from serve_app.gateway.service import Exchange

Endpoint = Callable[[Request], Awaitable[Response]]


class _Gateway(Protocol):
    @property
    def active(self) -> "Active | None": ...


def traced(gateway: _Gateway, endpoint: Endpoint) -> Endpoint:
    """Wrap an endpoint in the span of its request, `request.state.span`.

    The span of a stream goes on; whoever sends the stream ends it. Every answer names its trace in
    `traceresponse`.
    """

    async def call(request: Request) -> Response:
        active = gateway.active
        if active is None or not active.tracing.enabled:
            request.state.span = NOT_TRACED
            return await endpoint(request)
        span = request.state.span = _received(active.tracing, request)
        follow(span)
        try:
            response = await endpoint(request)
        except BaseException as error:
            span.fail(error)
            span.end()
            raise
        if span.context is not None:
            response.headers["traceresponse"] = span.context.traceparent
        span.set({"http.response.status_code": response.status_code})
        if not isinstance(response, StreamingResponse):
            span.end()
        return response

    return call


def follow(span: Span) -> None:
    """Let this task's log records name the trace of a span."""
    if span.context is not None:
        TRACE_ID.set(span.context.trace_id)


def describe_assignment(span: Span, job: "Job") -> None:
    """Note that it is known who answers."""
    if span.recording:
        decision = job.decision
        span.event(
            "assigned",
            {"carril.variant": decision.variant, "carril.exposure": decision.exposure},
        )


def describe_exchange(exchange: "Exchange", error: BaseException | None) -> None:
    """Say on a request's span what was asked, who answered and how it ended."""
    span = exchange.inbound.span
    if error is not None:
        span.fail(error)
    if not span.recording:
        return
    prepared = exchange.prepared
    decision, usages = prepared.decision, exchange.usages
    span.set(gen_ai.asked(prepared.jobs[0].request, prepared.model))
    span.set(gen_ai.finished(exchange.finish_reason))
    span.set(
        {
            "gen_ai.request.choice.count": len(prepared.jobs) if len(prepared.jobs) > 1 else None,
            "gen_ai.request.stream": prepared.stream,
            "gen_ai.response.id": exchange.inbound.inference_id,
            "gen_ai.response.model": prepared.model if error is None else None,
            "gen_ai.response.time_to_first_chunk": exchange.ttft_s if prepared.stream else None,
            "carril.request_id": exchange.request_id,
            "carril.served_model": decision.served_model,
            "carril.variant": decision.variant,
            "carril.experiment": decision.experiment,
            "carril.exposure": decision.exposure,
            "carril.reason": decision.reason,
            "carril.cache": exchange.cache,
            "carril.config": exchange.config_hash,
            "carril.model.sha256": exchange.model_sha256 or None,
            "carril.retries": exchange.retries,
            "carril.tenant": exchange.inbound.caller.tenant,
        }
    )
    if usages:
        span.set(
            gen_ai.used(
                Usage(
                    prompt_tokens=sum(usage.prompt_tokens for usage in usages),
                    completion_tokens=sum(usage.completion_tokens for usage in usages),
                    cached_tokens=sum(usage.cached_tokens for usage in usages),
                )
            )
        )


def model_call(job: "Job", variant: str, app: str, *, shadow: str | None = None) -> Span:
    """Begin the span of a call to a model's application."""
    if not job.span.recording:
        return Span(job.span.context)
    name = f"{gen_ai.operation(job.request)} {variant}"
    span = job.span.child(name if shadow is None else f"shadow {name}", "client")
    span.set(gen_ai.asked(job.request, variant))
    span.set(
        {
            "gen_ai.request.stream": job.stream,
            "server.address": app,
            "carril.variant": variant,
            "carril.shadow": shadow,
        }
    )
    return span


def describe_reply(span: Span, batch: ReplyBatch) -> None:
    """Say on a call's span what came back; called with each piece, while it is recorded."""
    identity = batch.identity
    if identity is not None:
        span.event("first_token")
        span.set(
            {
                "gen_ai.response.model": identity.model_name,
                "gen_ai.openai.response.system_fingerprint": identity.system_fingerprint,
                "carril.engine": identity.engine,
                "carril.replica": identity.replica,
                "carril.model.sha256": identity.model_sha256,
                "carril.joined": batch.joined,
                "carril.retries": batch.retries,
            }
        )
    last = batch.chunks[-1] if batch.chunks else None
    if last is not None and last.finish_reason is not None:
        span.set(gen_ai.finished(last.finish_reason))
        span.set(gen_ai.used(last.usage))


def _received(tracing: Tracing, request: Request) -> Span:
    headers = request.headers
    parents = headers.getlist("traceparent")
    # Without a route of FastAPI's, the path itself is one.
    route = getattr(request.scope.get("route"), "path", request.scope["path"])
    span = tracing.receive(
        f"{request.method} {route}",
        parents[0] if len(parents) == 1 else None,
        ",".join(headers.getlist("tracestate")),
    )
    if span.recording:
        span.set(
            {
                "http.request.method": request.method,
                "http.route": route,
                "url.path": request.url.path,
                "url.scheme": request.url.scheme,
                "server.address": request.url.hostname,
                "server.port": request.url.port,
                "network.protocol.version": request.scope.get("http_version"),
            }
        )
    return span
