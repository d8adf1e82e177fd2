"""Streams from a replica to a gateway over a real socket."""

import asyncio
from contextlib import aclosing

import pytest

from serve_app.direct import Inbox, Outlet, ReplyTo, Unreachable
from serve_app.direct.frames import HEADER, can_carry, decode, encode
from serve_app.engines.protocol import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
    Timings,
    Usage,
)
from serve_app.errors import EngineFailed, ReplicaLost
from serve_app.model.calls import AdapterHashes, ModelIdentity, ReplyBatch

HOST = "127.0.0.1"
IDENTITY = ModelIdentity(
    replica="r1",
    engine="llama_cpp",
    engine_version="0.3.36",
    model_name="okla",
    model_sha256="a" * 64,
    fingerprint="b" * 64,
    has_answer_schema=True,
    config_hash="c",
    adapters=(AdapterHashes("bachata", "d" * 64, "e" * 64),),
)


def batch(text, n, reason=None, identity=None):
    usage = Usage(prompt_tokens=5, completion_tokens=n, cached_tokens=2)
    timings = Timings(queue_s=0.1, prefill_s=0.2, decode_s=0.3) if reason else None
    chunk = GenerationChunk(text=text, usage=usage, finish_reason=reason, timings=timings)
    return ReplyBatch(chunks=(chunk,), identity=identity)


ANSWER = [
    batch("¿Qué", 1, identity=IDENTITY),
    batch(" lo qué?\x00\u2028🚗", 2),
    batch("", 3, "stop"),
]


async def answered(outlet, reply_to, batches=tuple(ANSWER), pause_s=0.0):
    sender = await outlet.connect(reply_to)
    for one in batches:
        await sender.send(one)
        await asyncio.sleep(pause_s)
    return True


async def collect(incoming, call):
    async with aclosing(incoming.batches(call)) as batches:
        return [one async for one in batches]


@pytest.fixture
async def ends():
    inbox, outlet = Inbox(HOST), Outlet()
    yield inbox, outlet
    outlet.close()
    inbox.close()


@pytest.mark.parametrize("one", ANSWER)
def test_a_batch_survives_the_way(one):
    frame = encode(b"s" * 16, one)
    assert decode(frame[HEADER.size :]) == one
    assert decode(frame[HEADER.size :]).chunks[-1].timings == one.chunks[-1].timings


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"chunks": [1]}', b'{"chunks": 3}'])
def test_what_is_no_batch_is_refused(payload):
    with pytest.raises(ValueError, match=r".+"):
        decode(payload)


def test_log_probabilities_and_echoes_take_the_other_way():
    plain = GenerationRequest(request_id="x", sampling=SamplingParams(max_tokens=3), prompt="a")
    assert can_carry(plain)
    scored = SamplingParams(max_tokens=3, logprobs=0)
    assert not can_carry(GenerationRequest(request_id="x", sampling=scored, prompt="a"))
    assert not can_carry(
        GenerationRequest(request_id="x", sampling=plain.sampling, prompt="a", echo=True)
    )


async def test_many_streams_over_one_connection_stay_apart(ends):
    inbox, outlet = ends

    async def one(number):
        incoming = await inbox.expect()
        batches = [batch(f"{number}", 1), batch("," * number, 2), batch("", 3, "stop")]
        call = asyncio.ensure_future(answered(outlet, incoming.reply_to, batches, 0.001))
        return "".join(b.chunks[0].text for b in await collect(incoming, call))

    texts = await asyncio.gather(*(one(number) for number in range(40)))
    assert texts == [f"{number}" + "," * number for number in range(40)]
    assert len(outlet._writers) == 1


async def test_pieces_that_come_after_the_call_has_returned_are_waited_for(ends):
    inbox, outlet = ends
    incoming = await inbox.expect()
    call = asyncio.get_running_loop().create_future()
    call.set_result(True)
    reader = asyncio.ensure_future(collect(incoming, call))
    await asyncio.sleep(0.05)
    await answered(outlet, incoming.reply_to)
    assert await reader == ANSWER


async def test_an_answer_that_never_comes_is_a_lost_replica(ends, monkeypatch):
    monkeypatch.setattr("serve_app.direct.inbox._STRAGGLERS_S", 0.05)
    inbox, _ = ends
    incoming = await inbox.expect()
    call = asyncio.get_running_loop().create_future()
    call.set_result(True)
    with pytest.raises(ReplicaLost):
        await collect(incoming, call)


async def test_what_the_call_raises_ends_the_stream_after_its_pieces(ends):
    inbox, outlet = ends
    incoming = await inbox.expect()

    async def fails():
        await answered(outlet, incoming.reply_to, ANSWER[:1])
        await asyncio.sleep(0.05)
        raise EngineFailed("boom")

    seen = []

    async def read():
        async for one in incoming.batches(asyncio.ensure_future(fails())):
            seen.append(one)  # noqa: PERF401 (what came before the error counts)

    with pytest.raises(EngineFailed):
        await read()
    assert seen == ANSWER[:1]


async def test_a_gateway_out_of_reach_is_told_before_anything_is_computed():
    inbox, outlet = Inbox(HOST), Outlet()
    incoming = await inbox.expect()
    inbox.close()
    with pytest.raises(Unreachable):
        await outlet.connect(incoming.reply_to)
    assert inbox.usable
    inbox.avoid()
    assert not inbox.usable


async def test_calls_do_not_wait_one_after_another_for_a_gateway_out_of_reach(monkeypatch):
    attempts = []

    async def nobody_answers(*place):
        attempts.append(place)
        await asyncio.sleep(60)

    monkeypatch.setattr("asyncio.open_connection", nobody_answers)
    monkeypatch.setattr("serve_app.direct.outlet._CONNECT_S", 0.02)
    outlet, reply_to = Outlet(), ReplyTo("10.0.0.9", 4711, b"s" * 16)
    calls = [outlet.connect(reply_to) for _ in range(20)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in found] == [Unreachable] * 20
    assert "10.0.0.9:4711: no answer" in str(found[-1])
    assert len(attempts) == 1
    monkeypatch.setattr("serve_app.direct.outlet._BELIEVED_S", 0.0)
    with pytest.raises(Unreachable):
        await Outlet().connect(reply_to)
    assert len(attempts) == 2


async def test_a_reader_that_has_gone_costs_nothing_and_disturbs_nobody(ends):
    inbox, outlet = ends
    gone, here = await inbox.expect(), await inbox.expect()
    gone.close()
    await answered(outlet, gone.reply_to)
    call = asyncio.ensure_future(answered(outlet, here.reply_to))
    assert await collect(here, call) == ANSWER
    assert not gone._batches


async def test_a_lost_connection_fails_its_streams_and_the_next_gets_a_new_one(ends):
    inbox, outlet = ends
    incoming = await inbox.expect()
    sender = await outlet.connect(incoming.reply_to)
    sender._writer.transport.abort()
    await asyncio.sleep(0.01)
    with pytest.raises(EngineFailed):
        await sender.send(ANSWER[0])
    call = asyncio.ensure_future(answered(outlet, incoming.reply_to))
    assert await collect(incoming, call) == ANSWER


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 64, HEADER.pack(b"s" * 16, 2**31), b"GET / HTTP/1.1\r\n\r\n" * 4]
)
async def test_strangers_are_cut_off_and_forge_nothing(ends, garbage):
    inbox, outlet = ends
    incoming = await inbox.expect()
    host, port, secret = incoming.reply_to
    _, writer = await asyncio.open_connection(host, port)
    writer.write(garbage)
    writer.write(encode(b"x" * 16, ANSWER[0]))
    await asyncio.sleep(0.02)
    assert not incoming._batches
    call = asyncio.ensure_future(answered(outlet, ReplyTo(host, port, secret)))
    assert await collect(incoming, call) == ANSWER
    writer.close()


async def test_frames_cut_anywhere_are_put_together(ends):
    inbox, _ = ends
    incoming = await inbox.expect()
    host, port, secret = incoming.reply_to
    _, writer = await asyncio.open_connection(host, port)
    for byte in b"".join(encode(secret, one) for one in ANSWER):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    call = asyncio.get_running_loop().create_future()
    call.set_result(True)
    assert await collect(incoming, call) == ANSWER
    writer.close()
