"""What the gateway's benchmarks are made of: the load program, the mock, the slope, the bounds."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from tests.benchmarks import mock_openai, stamp_reader
from tests.benchmarks.floors import beyond, floors
from tests.benchmarks.gateway_cpu import REQUESTS
from tests.benchmarks.test_gateway import TARGETS, compared
from tests.benchmarks.test_gateway_memory import slope


@pytest.fixture
async def mock() -> AsyncIterator[str]:
    """Serve the mock in this process and return its address."""
    server = await asyncio.get_running_loop().create_server(mock_openai._Connection, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"


async def load(url: str, *more: str) -> dict[str, float]:
    command = ["-m", "tests.benchmarks.http_load", url, "--seconds", "0.3", "--clients", "3"]
    command += ["--body", json.dumps({"model": "echo"}), *more]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    found: dict[str, float] = json.loads(output)
    return found


async def test_load_counts_what_the_mock_answers(mock: str) -> None:
    found = await load(mock, "--sessions")
    assert found["failures"] == 0
    assert found["requests"] > 10
    assert found["requests"] == pytest.approx(found["requests_per_s"] * 0.3, rel=0.5)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert 0 < found["client_cpu_share"] <= 1.1


async def test_in_an_open_loop_requests_come_at_their_rate(mock: str) -> None:
    found = await load(mock, "--rate", "200", "--seconds", "1")
    assert found["failures"] == 0
    assert found["requests"] == pytest.approx(200, rel=0.35)  # 5 standard deviations


async def test_in_an_open_loop_a_slow_server_cannot_put_requests_off() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            if reader.at_eof():
                return
            await reader.readuntil(b"}")
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        closed = await load(url)
        opened = await load(url, "--rate", "60", "--seconds", "1")  # twice what three clients do
    assert 90 < closed["p99_ms"] < opened["p50_ms"]
    assert opened["requests"] == pytest.approx(60, rel=0.6)


async def test_load_tells_failures() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            if reader.at_eof():
                return
            await reader.readuntil(b"}")
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno")

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        found = await load(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x")
    assert found["failures"] == found["requests"] > 0
    assert "503 Busy" in str(found["first_failure"])


async def test_load_comes_back_to_a_server_that_closes_kept_connections() -> None:
    n_connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        closes = n_connections <= 3
        while await reader.readline():
            await reader.readuntil(b"}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            if closes:
                break
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    async with server:
        found = await load(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x")
    assert (found["failures"], found["reconnects"]) == (0, 3)
    assert found["requests"] > 10


def test_slope_of_steady_growth_is_found_and_noise_has_zero_in_its_interval() -> None:
    grows = slope([(n * 1000, 50_000_000 + n * 10 * 1024) for n in range(20)])
    assert (grows.estimate, grows.low, grows.high) == (10, 10, 10)
    still = slope([(n * 1000, 50_000_000 + (n % 2) * 4096) for n in range(20)])
    assert still.low <= 0 <= still.high


def test_ratios_are_of_the_same_round_and_at_the_promised_number_of_clients() -> None:
    rounds = {
        (name, clients): [
            {"p50_ms": base * clients * speed, "requests_per_s": 100 / base} for speed in (1, 3)
        ]
        for name, base in {"two_hop": 2, "gateway": 3, "litellm": 12}.items()
        for clients in (1, 16)
    }
    rounds |= {(name, n): rounds["gateway", n] for name in TARGETS for n in (1, 16)} | rounds
    found = compared(rounds)
    assert found["gateway_p50_vs_two_hop"].median == 1.5
    assert found["gateway_p50_vs_litellm"].median == 0.25
    assert found["gateway_rps_vs_litellm"].median == 4
    assert found["gateway_p50_vs_two_hop"].n == 2


def test_stamps_are_found_in_events() -> None:
    event = b'data: {"choices":[{"delta":{"content":"123456789 "}}]}\n\n'
    assert stamp_reader._STAMP.findall(event * 2) == [b"123456789"] * 2


def test_bounds_tell_what_is_beyond_them() -> None:
    assert beyond({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.9}) == {"b": "2.00, at most 1.9"}
    with pytest.raises(KeyError):
        beyond({}, {"a": 1.0})
    assert floors()["gateway_cpu_vs_bare"].keys() == REQUESTS.keys()
