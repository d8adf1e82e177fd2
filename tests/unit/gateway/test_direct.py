"""The short way around FastAPI: which requests take it, and that nothing tells the ways apart."""

import json
from typing import Any

import pytest

from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import CHAT_PATH


async def ask(gateway: Gateway, *, method: str = "POST", root_path: str = "") -> tuple[int, Any]:
    body = json.dumps(CHAT).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": root_path + CHAT_PATH,
        "raw_path": (root_path + CHAT_PATH).encode(),
        "root_path": root_path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"x-session-id", b"s1")],
        "client": ("127.0.0.1", 1),
        "server": ("gateway", 80),
        "scheme": "http",
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway.api(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.fixture
def routed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths that FastAPI's router gets to see."""
    seen: list[str] = []
    router = gateway.api.router
    plain = type(router).app

    async def watch(self: Any, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await plain(self, scope, receive, send)

    monkeypatch.setattr(router, "middleware_stack", watch.__get__(router))
    return seen


async def test_chats_do_not_go_through_the_router(gateway: Gateway, routed: list[str]) -> None:
    status, body = await ask(gateway)
    assert (status, body["object"]) == (200, "chat.completion")
    assert routed == []


async def test_chats_below_a_root_path_get_the_same_answer_from_the_router(
    gateway: Gateway, routed: list[str]
) -> None:
    status, body = await ask(gateway, root_path="/carril")
    assert (status, body["object"]) == (200, "chat.completion")
    assert routed == [f"/carril{CHAT_PATH}"]


async def test_other_methods_are_refused_by_the_router(gateway: Gateway, routed: list[str]) -> None:
    status, body = await ask(gateway, method="PUT")
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")
    assert routed == [CHAT_PATH]


async def test_api_document_still_describes_them(gateway: Gateway) -> None:
    async with gateway.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert "requestBody" in paths[CHAT_PATH]["post"]
    assert "requestBody" in paths["/v1/completions"]["post"]
