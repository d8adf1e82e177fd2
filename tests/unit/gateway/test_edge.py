"""The outermost layer: nothing malformed in, nothing unshaped out."""

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from serve_app.gateway.edge import Edge, middlewares

Headers = list[tuple[bytes, bytes]]


class Seen:
    """What came through to the application, and what went back to the client."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] | None = None
        self.status = 0
        self.sent: dict[bytes, bytes] = {}
        self.body = b""

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


async def through(response: Response, headers: Headers | None = None, path: str = "/v1/x") -> Seen:
    seen = Seen()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.headers = dict(scope["headers"])
        await response(scope, receive, send)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # a client that stays
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.status = message["status"]
            seen.sent = dict(message["headers"])
        else:
            seen.body += message.get("body", b"")

    scope = {"type": "http", "method": "GET", "path": path, "headers": headers or []}
    await Edge(app)(scope, receive, send)
    return seen


OK = JSONResponse({"ok": True})


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-timeout-seconds",
        b"X-Request-Timeout-Seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
    ],
)
@pytest.mark.parametrize("value", [b"0", b"?1", b"\xff"])
async def test_headers_that_steer_serve_are_removed(name: bytes, value: bytes) -> None:
    seen = await through(OK, [(name, value), (b"x-session-id", b"s1")])
    assert seen.status == 200
    assert seen.headers == {b"x-session-id": b"s1"}


@pytest.mark.parametrize("name", [b"x-session-id", b"authorization", b"x-anything", b"\xff"])
async def test_header_that_is_no_text_is_refused_by_name(name: bytes) -> None:
    seen = await through(OK, [(name, b"\xff\xfe")])
    assert (seen.status, seen.headers) == (400, None)
    assert seen.error["code"] == "invalid_value"
    assert seen.error["param"] == name.decode("utf-8", "replace")
    assert seen.error["request_id"]


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a\x01", "ñ".encode()], ids=repr)
async def test_unsafe_request_id_is_refused(value: bytes) -> None:
    seen = await through(OK, [(b"x-request-id", value)])
    assert (seen.status, seen.error["param"]) == (400, "x-request-id")


async def test_utf8_headers_pass() -> None:
    value = "señal 👍".encode()
    seen = await through(OK, [(b"x-session-id", value)])
    assert seen.headers == {b"x-session-id": value}


@pytest.mark.parametrize(
    ("status", "becomes", "code"),
    [
        (400, 400, "invalid_request"),
        (404, 404, "not_found"),
        (405, 405, "method_not_allowed"),
        (408, 504, "timeout"),
        (413, 413, "request_too_large"),
        (418, 400, "invalid_request"),
        (429, 503, "overloaded"),
        (500, 500, "internal_error"),
        (502, 500, "internal_error"),
        (503, 503, "overloaded"),
        (504, 504, "timeout"),
    ],
)
async def test_plain_error_gets_the_openai_shape(status: int, becomes: int, code: str) -> None:
    response = PlainTextResponse("Traceback: secret", status_code=status)
    seen = await through(response, [(b"x-request-id", b"r1")])
    assert seen.status == becomes
    assert (seen.error["code"], seen.error["request_id"]) == (code, "r1")
    assert seen.sent[b"content-type"] == b"application/json"
    assert seen.sent[b"x-request-id"] == b"r1"
    assert int(seen.sent[b"content-length"]) == len(seen.body)
    assert b"secret" not in seen.body
    assert (b"retry-after" in seen.sent) == (becomes == 503)


async def test_error_of_ours_passes_untouched() -> None:
    response = JSONResponse({"error": {"code": "mine"}}, status_code=500, headers={"x-a": "b"})
    seen = await through(response)
    assert seen.error == {"code": "mine"}
    assert seen.sent[b"x-a"] == b"b"


async def test_streamed_plain_error_is_replaced_once() -> None:
    async def parts() -> Any:
        yield "secret "
        yield "trace"

    seen = await through(StreamingResponse(parts(), status_code=500, media_type="text/plain"))
    assert seen.error["code"] == "internal_error"


async def test_good_answers_of_any_type_pass() -> None:
    seen = await through(PlainTextResponse("# HELP", headers={"x-request-id": "r"}))
    assert (seen.status, seen.body) == (200, b"# HELP")


async def test_serves_own_routes_are_left_alone() -> None:
    seen = await through(
        PlainTextResponse("starting", status_code=503),
        [(b"x-request-timeout-seconds", b"5")],
        path="/-/healthz",
    )
    assert (seen.status, seen.body) == (503, b"starting")
    assert seen.headers == {b"x-request-timeout-seconds": b"5"}


def test_serve_finds_it_by_its_import_path() -> None:
    from cluster.ray_environment import cluster_environment

    assert middlewares()[0].cls is Edge
    assert "serve_app.gateway.edge:middlewares" in str(cluster_environment.__code__.co_consts)
