"""An HTTP client that costs little CPU: raw protocol, keep-alive, no parsing of bodies.

Run as a program of its own, so that it shares no interpreter with what it measures:

    python -m tests.benchmarks.http_load URL --clients 16 --seconds 5 --body '{...}' [--sessions]

Closed loop, every client sending as soon as it has its answer; or, with `--rate`, open loop:
requests come by a Poisson process, whatever the server does, and one that finds all clients busy
has waited since it came. It prints one JSON line: requests, failures, requests per second, latency
percentiles in ms, and which share of one CPU it took itself: near 1 it would have measured itself.
"""

import argparse
import asyncio
import json
import random
import time
from collections import deque
from typing import Protocol
from urllib.parse import urlsplit

_MAX_RECONNECTS = 5
"""Of one client; a server that closes more often has a fault."""
_END_OF_HEAD = b"\r\n\r\n"


class _Feed(Protocol):
    """Decides when a client sends its next request."""

    def ready(self, client: "_Client") -> None:
        """Take a client whose last answer is whole, or whose connection is new."""

    def lost(self, client: "_Client") -> None:
        """Hear that a client's connection was closed before it had its answer."""


class _ClosedLoop:
    """The next one at once, until the time is over."""

    def __init__(self, until: float) -> None:
        self._until = until

    def ready(self, client: "_Client") -> None:
        """Send, or end."""
        now = time.perf_counter()
        if now < self._until:
            client.send(now)
        else:
            client.end()

    def lost(self, client: "_Client") -> None:
        """Do nothing: it sends another one when it is back."""


class _Arrivals:
    """Requests that come by a Poisson process.

    Args:
        rate: Requests a second.
        until: When the last one comes.
        seed: Of the process.
    """

    def __init__(self, rate: float, until: float, seed: str) -> None:
        self._rate = rate
        self._until = until
        self._random = random.Random(seed)
        self._waiting: deque[float] = deque()
        self._idle: list[_Client] = []
        self._over = False

    async def run(self) -> None:
        """Let requests come."""
        at = time.perf_counter() + self._random.expovariate(self._rate)
        while at < self._until:
            await asyncio.sleep(at - time.perf_counter())
            if self._idle:
                self._idle.pop().send(at)
            else:
                self._waiting.append(at)
            at += self._random.expovariate(self._rate)
        self._over = True
        for client in self._idle:
            client.end()

    def ready(self, client: "_Client") -> None:
        """Give the client what has waited longest."""
        if self._waiting:
            client.send(self._waiting.popleft())
        elif self._over:
            client.end()
        else:
            self._idle.append(client)

    def lost(self, client: "_Client") -> None:
        """Keep its request for the next who is ready."""
        if client in self._idle:
            self._idle.remove(client)
        else:
            self._waiting.appendleft(client.since)


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(
        self, address: tuple[str, int], head: str, headers: str, body: bytes, feed: _Feed
    ) -> None:
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.reconnects = 0
        self._connecting: asyncio.Future[None] | None = None
        self._address = address
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = head
        self._headers = headers
        self._body = body
        self._feed = feed
        self._number = 0
        self.since = 0.0
        """When the request came that it has sent last."""
        self._received = bytearray()
        self._length = -1
        """Bytes of the whole answer; -1 until its head is there."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._feed.ready(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._length < 0:
            end = self._received.find(_END_OF_HEAD)
            if end < 0:
                return
            self._length = end + len(_END_OF_HEAD) + _content_length(self._received[:end])
        if len(self._received) >= self._length:
            self.latencies.append(time.perf_counter() - self.since)
            if self._received[9:12] != b"200":
                self.failures.append(self._received[:200].decode(errors="replace"))
            self._feed.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done.done():
            return
        if not self._received and self.reconnects < _MAX_RECONNECTS:
            # A proxy that takes a new configuration closes what is kept alive; the next request is
            # on its way already, and nobody has begun to answer it.
            self.reconnects += 1
            self._feed.lost(self)
            self._connecting = asyncio.ensure_future(self.connect())
            return
        self.failures.append(f"connection lost: {exc}")
        self.done.set_result(None)

    async def connect(self) -> None:
        """Open the connection; the first request follows by itself."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, *self._address)
        except OSError as error:
            self.failures.append(f"no connection: {error}")
            self.done.set_result(None)

    def send(self, since: float) -> None:
        """Send the next request, which has come at `since`."""
        assert self._transport is not None
        self._received.clear()
        self._length = -1
        self._number += 1
        head = self._head + self._headers.replace("{n}", str(self._number)) + "\r\n"
        self.since = since
        self._transport.write(head.encode() + self._body)

    def end(self) -> None:
        """Send no more."""
        assert self._transport is not None
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


def _content_length(head: bytearray) -> int:
    for line in bytes(head).split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    raise ValueError(f"an answer without a length: {head!r}")


async def _run(args: argparse.Namespace) -> dict[str, object]:
    parts = urlsplit(args.url)
    body = args.body.encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    assert parts.hostname
    address = (parts.hostname, parts.port or 80)
    started, own = time.perf_counter(), time.process_time()
    until = started + args.seconds
    arrivals = None if args.rate is None else _Arrivals(args.rate, until, args.name)
    clients = []
    for number in range(args.clients):
        session = f"x-session-id: bench-{args.name}-{number}-{{n}}\r\n" if args.sessions else ""
        clients.append(_Client(address, head, session, body, arrivals or _ClosedLoop(until)))
    await asyncio.gather(*(client.connect() for client in clients))
    if arrivals is not None:
        await arrivals.run()
    await asyncio.gather(*(client.done for client in clients))
    elapsed = time.perf_counter() - started
    latencies = sorted(latency for client in clients for latency in client.latencies)
    failures = [failure for client in clients for failure in client.failures]

    def percentile(share: float) -> float:
        return round(latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1000, 3)

    return {
        "requests": len(latencies),
        "failures": len(failures),
        "reconnects": sum(client.reconnects for client in clients),
        "first_failure": failures[0] if failures else None,
        "requests_per_s": round(len(latencies) / elapsed, 1),
        "p50_ms": percentile(0.5),
        "p90_ms": percentile(0.9),
        "p99_ms": percentile(0.99),
        "client_cpu_share": round((time.process_time() - own) / elapsed, 3),
    }


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rate", type=float, help="requests a second that come; open loop")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--body", required=True)
    parser.add_argument("--sessions", action="store_true", help="a new session id per request")
    parser.add_argument("--name", default="", help="part of the session ids, for several runs")
    print(json.dumps(asyncio.run(_run(parser.parse_args()))))  # noqa: T201


if __name__ == "__main__":
    main()
