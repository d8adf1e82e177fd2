"""A closed-loop HTTP client that costs little CPU: raw sockets, keep-alive, no parsing of bodies.

Run as a program of its own, so that it shares no interpreter with what it measures:

    python -m tests.benchmarks.http_load URL --clients 16 --seconds 5 --body '{...}' [--sessions]

It prints one JSON line: requests, failures, requests per second, and latency percentiles in ms.
"""

import argparse
import asyncio
import json
import time
from urllib.parse import urlsplit


async def _client(
    url: str,
    body: bytes,
    headers: str,
    deadline: float,
    latencies: list[float],
    failures: list[str],
) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    number = 0
    while time.perf_counter() < deadline:
        number += 1
        request = (head + headers.replace("{n}", str(number)) + "\r\n").encode() + body
        started = time.perf_counter()
        writer.write(request)
        status = await reader.readline()
        length = 0
        while (line := await reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - started)
        if b" 200 " not in status:
            failures.append(status.decode(errors="replace").strip())
    writer.close()


async def _run(args: argparse.Namespace) -> dict[str, object]:
    latencies: list[float] = []
    failures: list[str] = []
    body = args.body.encode()
    started = time.perf_counter()
    await asyncio.gather(
        *(
            _client(
                args.url,
                body,
                f"x-session-id: bench-{client}-{{n}}\r\n" if args.sessions else "",
                started + args.seconds,
                latencies,
                failures,
            )
            for client in range(args.clients)
        )
    )
    elapsed = time.perf_counter() - started
    latencies.sort()

    def percentile(share: float) -> float:
        return round(latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1000, 3)

    return {
        "requests": len(latencies),
        "failures": len(failures),
        "first_failure": failures[0] if failures else None,
        "requests_per_s": round(len(latencies) / elapsed, 1),
        "p50_ms": percentile(0.5),
        "p90_ms": percentile(0.9),
        "p99_ms": percentile(0.99),
    }


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--body", required=True)
    parser.add_argument("--sessions", action="store_true", help="a new session id per request")
    print(json.dumps(asyncio.run(_run(parser.parse_args()))))  # noqa: T201


if __name__ == "__main__":
    main()
