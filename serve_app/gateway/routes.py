"""The HTTP surface. Each route reads aloud: validate, prepare, run, reply."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app import __version__
from serve_app.errors import (
    ClientError,
    InternalError,
    MethodNotAllowed,
    ModelNotReady,
    RequestError,
    RouteNotFound,
    error_body,
)
from serve_app.gateway.active import Active
from serve_app.gateway.auth import Caller, authenticate
from serve_app.gateway.body import read_json
from serve_app.gateway.direct import DirectApi
from serve_app.gateway.edge import is_safe_id, unsafe_request_id
from serve_app.gateway.experiment_routes import add_experiment_routes
from serve_app.gateway.feedback_routes import add_feedback_route
from serve_app.gateway.inference_ids import new_uuid7
from serve_app.gateway.prepare import Inbound, Prepared, prepare_chat, prepare_completion
from serve_app.gateway.priority import priority_of
from serve_app.gateway.registry_routes import add_registry_routes
from serve_app.gateway.retrain_routes import add_retrain_route
from serve_app.gateway.service import Exchange, Service
from serve_app.gateway.spans import describe_assignment, traced
from serve_app.gateway.wire import ChatBody, CompletionBody, parse_chat, parse_completion
from serve_app.telemetry.tracing import NOT_TRACED, Span

logger = logging.getLogger(__name__)


class GatewayState(Protocol):
    """What the routes need of the gateway."""

    @property
    def active(self) -> Active | None:
        """The configuration in force, with everything built from it; None before the first."""
        ...

    def count_refusal(self, error: RequestError) -> None:
        """Count a request that never got as far as a variant."""
        ...

    async def readiness(self) -> dict[str, Any]:
        """Return the body of /readyz."""
        ...

    async def metrics_page(self) -> bytes:
        """Return the Prometheus text of all replicas."""
        ...


def build_api(gateway: GatewayState) -> FastAPI:
    """Return the ASGI application of a gateway replica."""
    api = DirectApi(title="carril", version=__version__, docs_url=None, redoc_url=None)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(RequestError, _request_error)
    api.add_exception_handler(Exception, _unexpected)
    route = functools.partial(_route, gateway)

    @api.post("/v1/chat/completions", openapi_extra=_body_docs(ChatBody))
    @route
    async def chat(active: Active, caller: Caller, request: Request) -> Response:
        """Create a chat completion."""
        raw = await read_json(request, active.config.limits)
        inbound = _inbound(active, request, caller, "chatcmpl")
        prepared = prepare_chat(parse_chat(raw), inbound, active.config, active.policy)
        return await _answer(active, prepared, inbound, request)

    @api.post("/v1/completions", openapi_extra=_body_docs(CompletionBody))
    @route
    async def completions(active: Active, caller: Caller, request: Request) -> Response:
        """Create a text completion."""
        raw = await read_json(request, active.config.limits)
        inbound = _inbound(active, request, caller, "cmpl")
        prepared = prepare_completion(parse_completion(raw), inbound, active.config, active.policy)
        return await _answer(active, prepared, inbound, request)

    @api.get("/v1/models")
    @route
    async def models(active: Active, _caller: Caller, _request: Request) -> Response:
        """List the served models."""
        return _json({"object": "list", "data": [_model(n) for n in active.policy.served_models]})

    @api.get("/v1/models/{name:path}")
    @route
    async def model(active: Active, _caller: Caller, request: Request) -> Response:
        """Describe one served model."""
        name = request.path_params["name"]
        active.policy.decide(name, None)
        return _json(_model(name))

    api.direct |= {"/v1/chat/completions": chat, "/v1/completions": completions}
    add_experiment_routes(api, route)
    add_feedback_route(api, route)
    add_registry_routes(api, route)
    add_retrain_route(api, route)

    @api.get("/readyz")
    async def readyz() -> Response:
        """Tell whether requests can be answered, with the state of every replica."""
        body = await gateway.readiness()
        return _json(body, status=503 if body["status"] == "not_ready" else 200)

    @api.get("/healthz")
    async def healthz() -> Response:
        """Tell that this process is alive."""
        return _json({"status": "ok", "version": __version__})

    @api.get("/metrics")
    async def metrics() -> Response:
        """Return the Prometheus series of every gateway and model replica."""
        page = await gateway.metrics_page()
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    return api


Handler = Callable[[Active, Caller, Request], Awaitable[Response]]


def _route(gateway: GatewayState, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a handler with what every /v1 route needs: configuration, caller, a bounded place."""

    async def endpoint(request: Request) -> Response:
        request.state.received_at = time.monotonic()
        try:
            _request_id(request)
            active = gateway.active
            if active is None:
                raise ModelNotReady("the gateway has no configuration yet", None, 2.0)
            client = request.client.host if request.client else None
            keys = request.headers.getlist("authorization")
            caller = authenticate(active.config.auth, keys, client)
            request.state.priority = priority_of(caller, request.headers)
            request.state.release = active.admission.enter(
                caller.tenant, priority=request.state.priority
            )
            request.state.span.event("admitted")
        except RequestError as error:
            gateway.count_refusal(error)
            return _error_response(request, error)
        streaming = False
        try:
            response = await handler(active, caller, request)
            streaming = isinstance(response, StreamingResponse)
            return response
        except RequestError as error:
            gateway.count_refusal(error)
            return _error_response(request, error)
        except Exception:  # the last barrier before the client
            logger.exception("request failed", extra={"request_id": _safe_request_id(request)})
            return _error_response(request, InternalError("the request failed unexpectedly"))
        finally:
            if not streaming:
                request.state.release()

    wrapped = traced(gateway, endpoint)
    wrapped.__name__ = getattr(handler, "__name__", "endpoint")
    wrapped.__doc__ = handler.__doc__
    return wrapped


async def _answer(
    active: Active, prepared: Prepared, inbound: Inbound, request: Request
) -> Response:
    exchange = Exchange(
        prepared=prepared,
        inbound=inbound,
        request_id=_safe_request_id(request),
        config_hash=active.config.config_hash,
        started=request.state.received_at,
    )
    if prepared.decision.sticky:
        await _settle(active, exchange)
    describe_assignment(inbound.span, exchange.prepared.jobs[0])
    try:
        if not prepared.stream:
            # The request holds one place already; a batch of prompts is as many generations.
            try:
                release = active.admission.enter(
                    inbound.caller.tenant, len(prepared.jobs) - 1, inbound.priority
                )
            except RequestError as error:
                if prepared.decision.sticky:
                    active.service.turn_away(exchange, error)
                raise
            try:
                body = await active.service.complete(exchange)
            finally:
                release()
            return _Answer(body, active.service, exchange)
        events = await active.service.open_stream(exchange)
    except RequestError as error:
        return _error_response(request, error, headers=exchange.headers())
    return _EventStream(
        events,
        request.state.release,
        headers={**exchange.headers(), "x-accel-buffering": "no"},
        span=inbound.span,
    )


async def _settle(active: Active, exchange: Exchange) -> None:
    """Give the request the variant that its unit has had first.

    A client that leaves meanwhile does not stop it: the unit is enrolled all the same, and without
    an outcome it would count as one whose answer was lost.
    """
    settling = asyncio.create_task(
        active.sticky.settle(exchange.prepared, exchange.inbound, active.config, active.variants)
    )
    try:
        exchange.prepared = await asyncio.shield(settling)
    except asyncio.CancelledError as left:
        leaving = left

        def settled(task: asyncio.Task[Prepared]) -> None:
            if not task.cancelled() and task.exception() is None:
                exchange.prepared = task.result()
                active.service.turn_away(exchange, leaving)

        settling.add_done_callback(settled)
        raise


class _Answer(Response):
    """An answer in one piece, accounted for once it is out: the client need not wait for that."""

    media_type = "application/json"

    def __init__(self, body: bytes, service: Service, exchange: Exchange) -> None:
        super().__init__(body, headers=exchange.headers())
        self._service = service
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._service.account(self._exchange)


class _EventStream(StreamingResponse):
    """Server-sent events that are closed, and their place given back, however the response ends.

    A client may leave before the first event: then nobody ever iterates the events.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        release: Callable[[], None],
        headers: dict[str, str],
        span: Span,
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._span = span
        self._events = events
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()
            try:
                await self._events.aclose()
            finally:
                self._span.end()


def _inbound(active: Active, request: Request, caller: Caller, prefix: str) -> Inbound:
    request.state.span.event("body_read")
    return Inbound(
        inference_id=active.ids.new(prefix, caller.tenant),
        caller=caller,
        headers=request.headers,
        received_at=asyncio.get_running_loop().time(),
        priority=request.state.priority,
        span=request.state.span,
    )


def _request_id(request: Request) -> str:
    """Return the request's id.

    Raises:
        InvalidField: If the client sent one that could not be logged and echoed safely.
    """
    given = request.headers.get("x-request-id")
    request.state.request_id = given if given is not None and is_safe_id(given) else new_uuid7()
    if given is not None and request.state.request_id != given:
        raise unsafe_request_id()
    return str(request.state.request_id)


def _safe_request_id(request: Request) -> str:
    known = getattr(request.state, "request_id", None)
    given = request.headers.get("x-request-id", "")
    if known is None and is_safe_id(given):
        known = given
    return str(known or new_uuid7())


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "carril"}


def _json(
    body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        orjson.dumps(body), status_code=status, media_type="application/json", headers=headers
    )


def _error_response(
    request: Request, error: RequestError, *, headers: dict[str, str] | None = None
) -> Response:
    getattr(request.state, "span", NOT_TRACED).fail(error)
    request_id = _safe_request_id(request)
    headers = dict(headers or {})
    headers["x-should-retry"] = "true" if error.should_retry else "false"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if not isinstance(error, ClientError):
        logger.warning(
            "request refused",
            extra={"request_id": request_id, "error_code": error.code, "reason": error.message},
        )
    return _json(error_body(error, request_id), status=error.status, headers=headers)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 (registered for it)
    return _error_response(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    if status == 404:
        return _error_response(request, RouteNotFound(f"no route {request.url.path[:200]!r}"))
    if status == 405:
        return _error_response(
            request,
            MethodNotAllowed(f"{request.method} is not allowed on {request.url.path[:200]!r}"),
        )
    return _error_response(request, InternalError("the request failed"))


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("request failed", exc_info=error, extra={"request_id": _safe_request_id(request)})
    return _error_response(request, InternalError("the request failed unexpectedly"))


def _body_docs(model: type[ChatBody] | type[CompletionBody]) -> dict[str, Any]:
    """Describe a body in the OpenAPI document; parsing it is ours, for the sake of the errors."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    inlined = orjson.dumps(schema).decode()
    for _ in range(4):
        for name, definition in definitions.items():
            reference = orjson.dumps({"$ref": f"#/components/schemas/{name}"}).decode()
            inlined = inlined.replace(reference, orjson.dumps(definition).decode())
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": orjson.loads(inlined)}},
        }
    }
