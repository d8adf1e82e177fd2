"""A client that asks many things at once and remembers every answer."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.integration.conftest import CHAT_PATH, chat


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one request."""

    status: int
    """0 if the connection broke."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    session: str = ""
    seconds: float = 0.0
    error: str = ""

    @property
    def variant(self) -> str:
        return self.headers.get("x-carril-variant", "")

    @property
    def cache(self) -> str:
        return self.headers.get("x-carril-cache", "")

    @property
    def content(self) -> str:
        return str(json.loads(self.body)["choices"][0]["message"]["content"])

    @property
    def events(self) -> list[Any]:
        """Events of an SSE body."""
        texts = [part.removeprefix("data: ") for part in self.body.decode().split("\n\n") if part]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


async def ask(
    http: aiohttp.ClientSession, url: str, body: dict[str, Any], session: str = "", **headers: str
) -> Answer:
    """Send one request; a broken connection is an answer too."""
    if session:
        headers["x-session-id"] = session
    started = time.monotonic()
    try:
        async with http.post(url + CHAT_PATH, json=body, headers=headers) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            data = bytearray()
            try:
                async for part in response.content.iter_any():
                    data += part
                error = ""
            except aiohttp.ClientError as broken:
                error = repr(broken)
            return Answer(
                status=response.status,
                headers=found,
                body=bytes(data),
                session=session,
                seconds=time.monotonic() - started,
                error=error,
            )
    except (aiohttp.ClientError, OSError) as broken:
        return Answer(
            status=0, session=session, seconds=time.monotonic() - started, error=repr(broken)
        )


def client(n_connections: int = 100, timeout_s: float = 60) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=n_connections),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    )


async def ask_all(url: str, sessions: Iterable[str], n_connections: int = 32) -> list[Answer]:
    """Ask once for each session, in their order, some at a time. Never from the cache."""
    waiting = list(enumerate(sessions))[::-1]
    answers: list[Answer] = []
    async with client(n_connections) as http:

        async def work() -> None:
            while waiting:
                _, session = waiting.pop()
                answers.append(await ask(http, url, chat(temperature=1), session))

        await asyncio.gather(*(work() for _ in range(n_connections)))
    return answers


class Load:
    """Requests at a steady rate while something else happens."""

    def __init__(self, url: str, per_second: float, body: Callable[[int], dict[str, Any]]) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._period_s = 1 / per_second
        self._body = body
        self._stop = asyncio.Event()

    async def run_during(self, action: Callable[[], None]) -> list[Answer]:
        """Run a blocking action in a thread under load; return every answer, its own included."""
        async with client() as http, asyncio.TaskGroup() as group:

            async def one(number: int) -> None:
                self.answers.append(
                    await ask(http, self._url, self._body(number), f"load-{number % 97}")
                )

            async def generate() -> None:
                number = 0
                due = time.monotonic()
                while not self._stop.is_set():
                    group.create_task(one(number))
                    number += 1
                    due += self._period_s
                    await asyncio.sleep(max(0.0, due - time.monotonic()))

            generating = group.create_task(generate())
            try:
                await asyncio.to_thread(action)
            finally:
                self._stop.set()
                await generating
        return self.answers


def failures(answers: Iterable[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status != 200 or answer.error]
