"""How much CPU one request costs the gateway, beside what FastAPI costs for next to nothing.

    python -m tests.benchmarks.gateway_cpu

Everything runs in this process, without Ray, HTTP or a network: the ASGI application of a gateway
with an echo engine behind it, and a FastAPI application that checks a body and gives it back. The
figure is CPU time, the least of many blocks of requests: what other processes do meanwhile hardly
moves it, and the ratio of the two does not depend on how fast the machine is.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import ASGIApp

from serve_app.gateway.edge import Edge
from tests.unit.gateway.builders import Gateway

BLOCKS, BLOCK = 12, 100
_MESSAGES = [{"role": "user", "content": "Klk, busco una yipeta pa la familia"}]
_BODY: dict[str, Any] = {"model": "fixed", "messages": _MESSAGES, "temperature": 1}
REQUESTS: Mapping[str, dict[str, Any]] = {
    "plain": _BODY,
    "enrolled": _BODY | {"model": "okla-chat"},
    "cached": _BODY | {"temperature": 0},
    "stream": _BODY | {"stream": True},
}


class _Message(BaseModel):
    role: str
    content: str


class _Chat(BaseModel):
    model: str
    messages: list[_Message]
    temperature: float


def bare() -> FastAPI:
    """Return an application that does the least one can do with a chat."""
    api = FastAPI()

    @api.post("/v1/chat/completions")
    async def chat(body: _Chat) -> dict[str, str]:
        return {"content": body.messages[-1].content}

    return api


async def costs(directory: Path) -> dict[str, float]:
    """Return microseconds of CPU per request: of `bare`, and of each kind of `REQUESTS`."""
    yardstick = Edge(bare())
    gateway = Gateway(directory)
    api = Edge(gateway.api)
    least: dict[str, float] = {}
    for number in range(BLOCKS):
        gateway.stored.clear()
        for name, app in {"bare": yardstick, **dict.fromkeys(REQUESTS, api)}.items():
            cost = await _block(app, REQUESTS.get(name, _BODY), f"{name}-{number}")
            if number:  # the first one fills caches
                least[name] = min(cost, least.get(name, cost))
    return least


async def _block(app: ASGIApp, body: dict[str, Any], name: str) -> float:
    data = json.dumps(body).encode()
    started = time.process_time()
    for number in range(BLOCK):
        await ask(app, data, f"{name}-{number}")
    return round((time.process_time() - started) / BLOCK * 1e6, 1)


async def ask(app: ASGIApp, body: bytes, session: str) -> None:
    parts = [body]

    async def receive() -> Any:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-session-id", session.encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("gateway", 80),
        "scheme": "http",
    }
    await app(scope, receive, send)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(costs(Path(directory)))
    for name, cost in found.items():
        sys.stdout.write(f"{name:10} {cost:7.1f} us  {cost / found['bare']:5.2f} x\n")


if __name__ == "__main__":
    main()
