"""The shared tier on Redis: an outage costs hits, never answers, and never mixes answers up."""

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from serve_app.config import CacheConfig
from serve_app.gateway.cache import ResponseCache
from serve_app.gateway.redis_tier import RedisTier
from tests.unit.gateway.test_cache import ANSWER, FULL


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def errors() -> Counter:
    return Counter("errors", "Failed calls.", registry=CollectorRegistry())


Connect = Callable[..., RedisTier]


@pytest.fixture
async def connect(errors: Counter) -> AsyncIterator[Connect]:
    tiers = []

    def connect(port: int, timeout_s: float = 1.0) -> RedisTier:
        tiers.append(RedisTier(f"redis://127.0.0.1:{port}/0", timeout_s=timeout_s, errors=errors))
        return tiers[-1]

    yield connect
    for tier in tiers:
        await tier.close()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, "redis-server did not start"
            assert process.poll() is None
            time.sleep(0.01)
    yield port, process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


async def test_two_processes_share_answers_until_they_expire(
    redis_server: tuple[int, subprocess.Popen[bytes]], connect: Connect, errors: Counter
) -> None:
    port, _ = redis_server
    one = ResponseCache(CacheConfig(ttl_s=0.3), connect(port))
    two = ResponseCache(CacheConfig(ttl_s=0.3), connect(port))
    await one.put("k", FULL)
    assert await two.get("k") == FULL
    assert await two.get("other") is None
    three = ResponseCache(CacheConfig(), connect(port))
    deadline = time.monotonic() + 5
    while await three._shared.get("k") is not None:  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert errors._value.get() == 0


async def test_killed_redis_is_a_miss_and_counted(
    redis_server: tuple[int, subprocess.Popen[bytes]], connect: Connect, errors: Counter
) -> None:
    port, process = redis_server
    store = ResponseCache(CacheConfig(), connect(port))
    await store.put("k", ANSWER)
    process.kill()
    process.wait()
    assert await store.get("other") is None
    await store.put("new", ANSWER)
    assert await store.get("new") == ANSWER
    assert errors._value.get() == 1  # the pause after it spares the next calls the wait


async def test_redis_that_comes_back_is_used_again(
    redis_server: tuple[int, subprocess.Popen[bytes]],
    connect: Connect,
    errors: Counter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.gateway.redis_tier._PAUSE_S", 0.05)
    port, process = redis_server
    tier = connect(port, timeout_s=0.2)
    await tier.put("k", b"v", 100)
    process.send_signal(signal.SIGSTOP)
    assert await tier.get("k") is None
    assert await tier.get("k") is None
    assert errors._value.get() == 1
    process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 5
    while await tier.get("k") != b"v":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_nobody_listening_is_a_miss(connect: Connect, errors: Counter) -> None:
    tier = connect(free_port())
    assert await tier.get("k") is None
    await tier.put("k", b"v", 1)
    assert errors._value.get() == 1


async def test_silent_redis_costs_one_timeout(connect: Connect, errors: Counter) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    tier = connect(server.sockets[0].getsockname()[1], timeout_s=0.05)
    started = time.monotonic()
    for _ in range(50):
        assert await tier.get("k") is None
    assert time.monotonic() - started < 1.0
    assert errors._value.get() == 1
    await tier.close()
    server.close()


async def test_late_reply_never_answers_the_next_question(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leak of other clients: a reply that arrives after its timeout meets the next request."""
    monkeypatch.setattr("serve_app.gateway.redis_tier._PAUSE_S", 0.0)
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            count = int(line[1:])
            words = []
            for _ in range(count):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            if words[0] == b"GET":
                if words[1].endswith(b"slow"):
                    await release.wait()
                value = b"answer to " + words[1].rpartition(b":")[2]
                writer.write(b"$%d\r\n%b\r\n" % (len(value), value))
            elif words[0] == b"HELLO":
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            else:
                writer.write(b"+OK\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    tier = connect(server.sockets[0].getsockname()[1], timeout_s=0.3)
    assert await tier.get("quick") == b"answer to quick"
    assert await tier.get("slow") is None
    release.set()
    for n in range(5):
        assert await tier.get(f"k{n}") == b"answer to k%d" % n
    await tier.close()
    server.close()
