"""Asking a gateway over HTTP, and reading what it says."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import httpx

from serve_app.gateway.unit import Unit
from tests.unit.gateway.builders import Gateway

MakeGateway = Callable[..., Gateway]
CHAT_PATH = "/v1/chat/completions"


def unit_of(gateway: Gateway, variant: str) -> str:
    """Return a session id that the split sends to a variant."""
    assert gateway.active is not None
    for n in range(10_000):
        if gateway.active.policy.decide("okla-chat", Unit(f"s{n}", "user")).variant == variant:
            return f"s{n}"
    raise AssertionError(variant)


def events(response: httpx.Response) -> list[Any]:
    """Return the events of an SSE body; the last one must be [DONE] or an error."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [
        "[DONE]" if line == "data: [DONE]" else json.loads(line.removeprefix("data: "))
        for line in lines
    ]


def text_of(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        if isinstance(chunk, dict)
        for choice in chunk.get("choices", [])
    )


def keys(**tenants: str) -> dict[str, Any]:
    return {
        "auth": {
            "keys": [
                {"name": k, "sha256": hashlib.sha256(k.encode()).hexdigest(), "tenant": tenant}
                for k, tenant in tenants.items()
            ]
        }
    }


async def wait_until(true: Callable[[], bool], seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.005)


class Connection:
    """One ASGI request whose client can leave."""

    def __init__(self, gateway: Gateway, body: dict[str, Any]) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self._body: bytes | None = json.dumps(body).encode()
        self._gateway = gateway

    async def run(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": CHAT_PATH,
            "raw_path": CHAT_PATH.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("gateway", 80),
            "scheme": "http",
        }
        await self._gateway.api(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(dict(message))
        await asyncio.sleep(0)


def at_rest(gateway: Gateway) -> bool:
    assert gateway.active is not None
    return (
        gateway.active.admission.in_flight == 0
        and all(v.engine.stats().running == 0 for v in gateway.variants.values())
        and gateway.metrics.active.labels("stable")._value.get() == 0
    )
