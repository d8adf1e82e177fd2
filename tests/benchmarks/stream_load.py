"""A client for streamed chat completions that costs little CPU.

Run as a program of its own, so that it shares no interpreter with what it measures:

    python -m tests.benchmarks.stream_load < plan.json > results.json

A plan is `{"url": ..., "requests": [{"body": {...}, "label": ..., ...}], "clients": 8}`. With
`clients`, that many connections work through the list, each sending its next request when the last
one is answered (closed loop). Without, every request has a connection of its own and starts `at_s`
seconds after the beginning (open loop; `poisson` makes such times), or once all requests before it
in the list have got `after_chunks` pieces of text.
"""

import asyncio
import contextlib
import json
import random
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks import sse

_PATH = "/v1/chat/completions"
_CLOSE = b"connection: close"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A request to send."""

    body: dict[str, Any]
    label: str = ""
    at_s: float = 0.0
    after_chunks: int = 0


@dataclass(slots=True, kw_only=True)
class Result:
    """How a request went; moments are seconds since the beginning of the run."""

    label: str
    status: int = 0
    error: str | None = None
    sent_s: float = 0.0
    ttft_s: float | None = None
    total_s: float = 0.0
    text_at_s: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def ok(self) -> bool:
        """Whether it was answered to the end."""
        return self.status == 200 and self.error is None and self.finish_reason is not None

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between pieces of text."""
        return [b - a for a, b in zip(self.text_at_s, self.text_at_s[1:], strict=False)]


def poisson(n: int, *, rate_per_s: float, seed: int) -> list[float]:
    """Return when `n` requests start that come independently of each other."""
    rng = random.Random(seed)
    moments, at = [], 0.0
    for _ in range(n):
        at += rng.expovariate(rate_per_s)
        moments.append(at)
    return moments


class Client:
    """Sends requests to one server and notes when what arrives."""

    def __init__(self, url: str, clock: Any = time.perf_counter) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._netloc = parts.hostname, parts.port or 80, parts.netloc
        self._clock = clock
        self._started = 0.0
        self._progress: dict[int, int] = {}
        self._moved = asyncio.Event()

    async def closed_loop(self, planned: Sequence[Planned], clients: int) -> list[Result]:
        """Work through the list with so many clients."""
        self._started = self._clock()
        queue = list(enumerate(planned))[::-1]
        results: dict[int, Result] = {}

        async def work() -> None:
            connection = None
            while queue:
                index, request = queue.pop()
                connection, results[index] = await self._send(connection, index, request)
            if connection is not None:
                connection[1].close()

        await asyncio.gather(*(work() for _ in range(clients)))
        return [results[index] for index in range(len(planned))]

    async def scheduled(self, planned: Sequence[Planned]) -> list[Result]:
        """Send every request at its own time."""
        self._started = self._clock()
        self._progress = dict.fromkeys(range(len(planned)), 0)

        async def one(index: int, request: Planned) -> Result:
            await asyncio.sleep(request.at_s)
            while request.after_chunks and any(
                self._progress[earlier] < request.after_chunks for earlier in range(index)
            ):
                self._moved.clear()
                await self._moved.wait()
            connection, result = await self._send(None, index, request)
            if connection is not None:
                connection[1].close()
            return result

        return list(await asyncio.gather(*(one(i, r) for i, r in enumerate(planned))))

    async def _send(
        self,
        connection: Connection | None,
        index: int,
        request: Planned,
    ) -> tuple[Connection | None, Result]:
        result = Result(label=request.label)
        chunks: list[sse.Timed] = []
        body = json.dumps(request.body).encode()
        head = (
            f"POST {_PATH} HTTP/1.1\r\nHost: {self._netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        result.sent_s = self._clock() - self._started
        try:
            connection, head_lines = await self._ask(connection, head.encode() + body)
            result.status = int(head_lines[0].split()[1])
            await self._body(connection[0], head_lines, chunks, index)
            if any(line.startswith(_CLOSE) for line in head_lines):
                connection[1].close()
                connection = None
        except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
            result.error = f"{type(error).__name__}: {error}"
            connection = None
        result.total_s = self._clock() - self._started - result.sent_s
        self._progress[index] = sys.maxsize  # whoever waits for it has waited enough
        self._moved.set()
        _read(result, chunks)
        return connection, result

    async def _ask(
        self, connection: Connection | None, request: bytes
    ) -> tuple[Connection, list[bytes]]:
        """Send a request; on a new connection if the server has closed the old one meanwhile."""
        if connection is not None:
            connection[1].write(request)
            with contextlib.suppress(ConnectionError):
                if head := await _head(connection[0]):
                    return connection, head
            connection[1].close()
        connection = await asyncio.open_connection(self._host, self._port)
        connection[1].write(request)
        head = await _head(connection[0])
        if not head:
            raise ValueError("the server closed the connection without an answer")
        return connection, head

    async def _body(
        self,
        reader: asyncio.StreamReader,
        head_lines: list[bytes],
        chunks: list[sse.Timed],
        index: int,
    ) -> None:
        async for data in _chunks(reader, head_lines):
            chunks.append((self._clock() - self._started, data))
            if b'"content":"' in data or b'"content": "' in data:
                self._progress[index] = self._progress.get(index, 0) + 1
                self._moved.set()


async def _head(reader: asyncio.StreamReader) -> list[bytes]:
    lines = []
    while (line := await reader.readline()) not in (b"\r\n", b""):
        lines.append(line.strip().lower())
    return lines


async def _chunks(reader: asyncio.StreamReader, head_lines: list[bytes]) -> Any:
    if b"transfer-encoding: chunked" in head_lines:
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return
    lengths = [line for line in head_lines if line.startswith(b"content-length:")]
    if lengths:
        yield await reader.readexactly(int(lengths[0].split(b":")[1]))
        return
    while data := await reader.read(65536):
        yield data


def _read(result: Result, chunks: list[sse.Timed]) -> None:
    if result.error is not None or not chunks:
        result.error = result.error or "an empty answer"
        return
    body = b"".join(data for _, data in chunks)
    streams = body.lstrip().startswith((b"data:", b"event:", b":"))
    try:
        answer = sse.streamed(chunks) if streams else sse.whole(chunks[-1][0], body)
    except (ValueError, KeyError, IndexError) as error:
        result.error = f"no chat completion ({type(error).__name__}: {error}): {body[:300]!r}"
        return
    result.error, result.text, result.text_at_s = answer.error, answer.text, answer.text_at
    result.finish_reason = answer.finish_reason
    result.completion_tokens = answer.completion_tokens
    result.prompt_tokens = answer.prompt_tokens
    result.cached_tokens = answer.cached_tokens
    if answer.text_at:
        result.ttft_s = answer.text_at[0] - result.sent_s


def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Carry a plan out; return its results and what the client itself cost."""
    planned = [Planned(**request) for request in plan["requests"]]
    started = time.perf_counter()

    async def go() -> list[Result]:
        client = Client(plan["url"])
        if plan.get("clients"):
            return await client.closed_loop(planned, plan["clients"])
        return await client.scheduled(planned)

    results = asyncio.run(go())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": time.perf_counter() - started,
        "client_cpu_s": usage.ru_utime + usage.ru_stime,
        "results": [asdict(result) for result in results],
    }


def failures(results: Iterable[Result]) -> list[str]:
    """Return what went wrong, one line per failed request."""
    return [
        f"{r.label or 'request'}: status {r.status}, {r.error or 'no end'}"
        for r in results
        if not r.ok
    ]


def main() -> None:
    """Read the plan from stdin, write results to stdout."""
    json.dump(run(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
