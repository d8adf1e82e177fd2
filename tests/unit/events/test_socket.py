"""The event writer's socket, with the writer's own file behind it."""

import asyncio
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayError

from experiments.events.records import Enrolment, Kept
from experiments.events.store import EventStore
from serve_app.events.frames import (
    HEADER,
    NotStored,
    decode_events,
    decode_reply,
    encode_error,
    encode_events,
    encode_kept,
    frame,
)
from serve_app.events.link import Connection, SocketLost, WriterLink, connect
from serve_app.events.places import reachable
from serve_app.events.socket_server import EventSocket
from serve_app.events.writer import EventWriter, store_path
from tests.unit.experiments.events.builders import exposure, feedback, outcome, transcript


@pytest.fixture
async def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventWriter]:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    writer = EventWriter(str(tmp_path))
    yield writer
    writer._stop.set()
    writer._socket.close()


async def reach(writer: EventWriter) -> Connection:
    return await connect(Path(await writer.socket_path()))


async def append(connection, *events):
    return await asyncio.wait_for(connection.call(encode_events(events)), 5)


def count(home: Path, table: str = "exposures") -> int:
    store = EventStore(store_path(home), read_only=True)
    try:
        return store.count(table)
    finally:
        store.close()


def test_batches_and_replies_arrive_as_they_were_sent():
    events = [
        exposure("único 🚗", probability=0.1 + 0.2),
        Enrolment(exposure("u2")),
        outcome("c1", ttft_s=None, confidence=1e-17),
        feedback("f1", value=1.0, text="¡Qué vaina!"),
        transcript("c1"),
    ]
    assert decode_events(encode_events(events)) == events
    kept = [Kept("stable", 1 / 3, 9999, "abc")]
    assert decode_reply(encode_kept(kept)) == kept
    assert decode_reply(encode_kept(())) == []
    with pytest.raises(NotStored, match="disk"):
        decode_reply(encode_error("disk \ud800 full"))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"{", b"3", b"[3]", b'[["x", {}]]', b'[["?", {}]]', b'[["x", {"unit": 1}]]'],
)
def test_what_is_no_batch_is_refused(payload):
    with pytest.raises(ValueError, match=r"."):
        decode_events(payload)


async def test_a_reply_means_that_the_events_are_on_disk(writer, tmp_path):
    connection = await reach(writer)
    assert await append(connection, exposure("u1"), outcome("c1")) == []
    assert (count(tmp_path), count(tmp_path, "outcomes")) == (1, 1)
    given = exposure("u1", variant="candidate")
    assert await append(connection, Enrolment(given)) == [Kept("stable", 0.9, 5000, "0123456789ab")]
    assert stat.S_IMODE(writer._socket.path.stat().st_mode) == 0o600
    connection.close()


async def test_any_number_of_batches_is_under_way_at_once(writer, tmp_path):
    one, other = await reach(writer), await reach(writer)
    await asyncio.gather(
        *(append((one, other)[n % 2], exposure(f"u{n}")) for n in range(300)),
        *(writer.append([exposure(f"ray-{n}")]) for n in range(30)),
    )
    assert count(tmp_path) == 330
    one.close()
    other.close()


async def test_a_batch_that_the_store_refuses_is_told_and_hurts_nobody(writer, tmp_path):
    connection = await reach(writer)
    bad = exposure("u1", version=None)
    good, refused = await asyncio.gather(
        append(connection, exposure("u2")), append(connection, bad), return_exceptions=True
    )
    assert good == []
    assert isinstance(refused, NotStored)
    assert "NOT NULL" in str(refused)
    assert count(tmp_path) == 1
    connection.close()


async def test_a_writer_too_far_behind_says_so(writer, monkeypatch):
    connection = await reach(writer)
    writer._writer.close()
    with pytest.raises(NotStored, match="closed"):
        await append(connection, exposure("u1"))
    connection.close()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", HEADER.pack(1, 2**32 - 1), b"\0" * 7])
async def test_rubbish_ends_its_own_connection_only(writer, tmp_path, data):
    connection = await reach(writer)
    with reachable(writer._socket.path) as address, socket.socket(socket.AF_UNIX) as rude:
        rude.connect(address)
        rude.sendall(data)
        rude.shutdown(socket.SHUT_WR)
        rude.settimeout(5)
        assert await asyncio.to_thread(rude.recv, 10) == b""
    assert await append(connection, exposure("u1")) == []
    connection.close()


async def test_the_end_of_the_writer_is_told_to_all_who_wait():
    connection = Connection()
    with pytest.raises(SocketLost):
        await connection.call(b"[]")
    ours, theirs = socket.socketpair()
    _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, sock=ours)
    calls = [asyncio.create_task(connection.call(b"[]")) for _ in range(3)]
    await asyncio.sleep(0.05)
    theirs.close()
    assert {type(one) for one in await asyncio.gather(*calls, return_exceptions=True)} == {
        SocketLost
    }
    assert connection.lost
    with pytest.raises(SocketLost):
        await connection.call(b"[]")


async def test_who_does_not_read_replies_does_not_hold_up_the_others(tmp_path):
    def store(events):
        done = Future()
        done.set_result([Kept("stable", 0.5, 1, "c" * 5000)] * len(events))
        return done

    listening = EventSocket(tmp_path, store)
    with reachable(listening.path) as address, socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(address)
        deaf.settimeout(5)
        payload = encode_events([exposure("u")])

        def pester():
            for n in range(10_000):
                deaf.sendall(frame(n, payload))

        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            await asyncio.to_thread(pester)
    connection = await connect(listening.path)
    assert len(await append(connection, exposure("u"))) == 1
    connection.close()
    listening.close()


async def test_a_deep_home_and_what_a_dead_writer_left_are_no_obstacle(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (deep / "writer-1.sock").touch()
    listening = EventSocket(deep, lambda events: Future())
    assert [path.name for path in deep.iterdir()] == [f"writer-{os.getpid()}.sock"]
    (await connect(listening.path)).close()
    listening.close()
    assert not list(deep.iterdir())


class Actor:
    """Stands in for the handle of a writer's actor."""

    def __init__(self, writer: EventWriter, *, dead: bool = False) -> None:
        self.calls = 0
        self.append = SimpleNamespace(remote=self._append)
        self.socket_path = SimpleNamespace(remote=writer.socket_path)
        self._writer = writer
        self._dead = dead

    async def _append(self, events):
        self.calls += 1
        if self._dead:
            raise ActorDiedError
        return await self._writer.append(events)


async def linked(monkeypatch, actor) -> WriterLink:
    monkeypatch.setattr("serve_app.events.link.get_writer", lambda home: actor)
    link = WriterLink(Path("unused"))
    await link.append([exposure("first")])
    deadline = time.monotonic() + 5
    while link._connection is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return link


async def test_the_first_batch_goes_by_ray_and_the_next_by_the_socket(
    writer, tmp_path, monkeypatch
):
    actor = Actor(writer)
    link = await linked(monkeypatch, actor)
    for n in range(5):
        assert await link.append([exposure(f"u{n}")]) == []
    assert await link.append([Enrolment(exposure("u1"))]) == [
        Kept("stable", 0.9, 5000, "0123456789ab")
    ]
    assert (actor.calls, count(tmp_path)) == (1, 6)


async def test_what_json_cannot_carry_goes_by_ray(writer, monkeypatch):
    actor = Actor(writer)
    link = await linked(monkeypatch, actor)
    with pytest.raises(UnicodeEncodeError):  # as the store has always said
        await link.append([exposure("\ud800")])
    assert actor.calls == 2


async def test_a_lost_socket_is_found_again(writer, tmp_path, monkeypatch):
    actor = Actor(writer)
    link = await linked(monkeypatch, actor)
    link._connection._transport.abort()
    await asyncio.sleep(0.05)
    await link.append([exposure("u1")])
    deadline = time.monotonic() + 5
    while link._connection is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await link.append([exposure("u2")])
    assert (actor.calls, count(tmp_path)) == (2, 3)


async def test_without_a_writer_the_caller_hears_of_it(writer, monkeypatch):
    actor = Actor(writer, dead=True)
    monkeypatch.setattr("serve_app.events.link.get_writer", lambda home: actor)
    with pytest.raises(RayError):
        await WriterLink(Path("unused")).append([exposure("u1")])
