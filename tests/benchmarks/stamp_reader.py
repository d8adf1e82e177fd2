"""Reads streams of `clock_model` and tells how long each token was on its way.

    python -m tests.benchmarks.stamp_reader URL --clients 1 --streams 50 --body '{...}'

Prints one JSON line: the milliseconds from engine to client of first tokens, and of all later ones.
"""

import argparse
import asyncio
import json
import re
import time
from urllib.parse import urlsplit

_STAMP = re.compile(rb'"content":"(\d+) "')
_END = b"data: [DONE]"


async def _stream(url: str, body: bytes) -> list[float]:
    """Return how long each token of one stream was under way, in milliseconds."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    received = bytearray()
    delays: list[float] = []
    try:
        while data := await reader.read(65536):
            now = time.monotonic_ns()
            received += data
            known = _STAMP.findall(received)
            delays += [(now - int(stamp)) / 1e6 for stamp in known[len(delays) :]]
    finally:
        writer.close()
    if _END not in received:
        raise RuntimeError(f"a stream without an end: {bytes(received[-300:])!r}")
    return delays


async def _run(args: argparse.Namespace) -> dict[str, list[float]]:
    body = args.body.encode()
    left = list(range(args.streams))
    streams: list[list[float]] = []

    async def client() -> None:
        while left:
            left.pop()
            streams.append(await _stream(args.url, body))

    await asyncio.gather(*(client() for _ in range(args.clients)))
    return {
        "first_ms": [stream[0] for stream in streams],
        "later_ms": [delay for stream in streams for delay in stream[1:]],
    }


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--body", required=True)
    print(json.dumps(asyncio.run(_run(parser.parse_args()))))  # noqa: T201


if __name__ == "__main__":
    main()
