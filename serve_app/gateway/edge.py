"""The outermost layer of every HTTP server: nothing malformed gets in, nothing unshaped gets out.

Ray Serve reads some headers before the application sees the request: it decodes them as UTF-8, lets
them switch off its timeouts and pick models, and answers its own failures in plain text. This
middleware stands in front of that, in the proxy and in the replicas' own servers alike. Serve
installs it when `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names `middlewares`, as under
`carril up`.
"""

import uuid
from typing import Any

import orjson
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import (
    ClientError,
    DeadlineExceeded,
    InternalError,
    InvalidField,
    MethodNotAllowed,
    Overloaded,
    RequestError,
    RequestTooLarge,
    RouteNotFound,
    error_body,
)

_MAX_REQUEST_ID_CHARS = 128

_REMOVED = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    }
)
"""Headers with which a client could steer Serve itself."""


def middlewares() -> list[Middleware]:
    """Return what Serve puts in front of its HTTP servers."""
    return [Middleware(Edge)]


class Edge:
    """Checks headers on the way in; gives bare error responses the OpenAI shape on the way out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        try:
            headers = _checked(scope["headers"])
        except InvalidField as error:
            await _send_error(send, error, _new_id())
            return
        shaper = _Shaper(send, dict(headers).get(b"x-request-id", b"").decode() or _new_id())
        await self._app({**scope, "headers": headers}, receive, shaper.send)


class _Shaper:
    """Replaces error responses that are not JSON."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._replacing: RequestError | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {key.lower(): value for key, value in message.get("headers", [])}
            if status >= 400 and not headers.get(b"content-type", b"").startswith(
                b"application/json"
            ):
                self._replacing = _error_for(status)
                return
        elif self._replacing is not None and message["type"] == "http.response.body":
            if not message.get("more_body", False):
                await _send_error(self._send, self._replacing, self._request_id)
            return
        await self._send(message)


def _checked(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = []
    for key, value in headers:
        name = key.lower()
        if name in _REMOVED:
            continue
        try:
            text = value.decode("utf-8")
            shown = name.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidField(
                f"header {name[:64].decode('utf-8', 'replace')!r} is not valid UTF-8",
                name[:64].decode("utf-8", "replace"),
            ) from None
        if shown == "x-request-id" and not is_safe_id(text):
            raise unsafe_request_id()
        kept.append((key, value))
    return kept


def is_safe_id(text: str) -> bool:
    """Return whether a request id can be logged and echoed."""
    return 0 < len(text) <= _MAX_REQUEST_ID_CHARS and text.isascii() and text.isprintable()


def unsafe_request_id() -> InvalidField:
    """Return the error for a request id that cannot."""
    return InvalidField(
        f"x-request-id must be 1 to {_MAX_REQUEST_ID_CHARS} printable ASCII characters",
        "x-request-id",
    )


def _error_for(status: int) -> RequestError:
    match status:
        case 404:
            return RouteNotFound("no such route")
        case 405:
            return MethodNotAllowed("the path does not take this method")
        case 413:
            return RequestTooLarge("the request is too large")
        case 408 | 504:
            return DeadlineExceeded("no answer within the deadline")
        case 429 | 503:
            return Overloaded("the server cannot take the request now; try again", None, 1.0)
    if status < 500:
        return ClientError("the request was refused before it was read")
    return InternalError("the server failed on this request")


async def _send_error(send: Send, error: RequestError, request_id: str) -> None:
    body = orjson.dumps(error_body(error, request_id))
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"x-should-retry", b"true" if error.should_retry else b"false"),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": error.status,
        "headers": headers,
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _new_id() -> str:
    return uuid.uuid4().hex
