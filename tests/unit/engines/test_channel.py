"""Pieces of an answer on their way to a reader."""

import asyncio
import time

from serve_app.engines.llama_cpp.channel import Channel, Outbox
from serve_app.engines.protocol import GenerationChunk, TokenLogprob, Usage
from serve_app.errors import EngineFailed


def piece(text, n, reason=None):
    entry = TokenLogprob(token=text, token_bytes=text.encode(), logprob=-1.0)
    usage = Usage(prompt_tokens=3, completion_tokens=n)
    return GenerationChunk(text=text, usage=usage, logprobs=(entry,), finish_reason=reason)


async def get(channel):
    return await asyncio.wait_for(channel.get(), 1)


async def test_the_first_piece_and_the_last_never_wait():
    channel, outbox = Channel(), Outbox(pause_s=60)
    outbox.put(channel, piece("a", 1))
    outbox.flush()
    assert (await get(channel)).text == "a"
    outbox.put(channel, piece("b", 2))
    outbox.flush()
    outbox.put(channel, piece("c", 3, "stop"))
    outbox.flush()
    last = await get(channel)
    assert (last.text, last.finish_reason, last.usage.completion_tokens) == ("bc", "stop", 3)
    assert [entry.token for entry in last.logprobs] == ["b", "c"]


async def test_pieces_between_them_wait_for_the_pause_and_come_together():
    channel, outbox = Channel(), Outbox(pause_s=0.05)
    outbox.put(channel, piece("a", 1))
    outbox.flush()
    started = time.monotonic()
    assert (await get(channel)).text == "a"
    n = 1
    while time.monotonic() - started < 0.06:
        n += 1
        outbox.put(channel, piece("b", n))
        outbox.flush()
        await asyncio.sleep(0.002)
    text = (await get(channel)).text
    assert text == "b" * len(text)
    assert len(text) > 3


async def test_what_is_urgent_takes_the_others_along():
    old, new, outbox = Channel(), Channel(), Outbox(pause_s=60)
    outbox.put(old, piece("a", 1))
    outbox.flush()
    assert (await get(old)).text == "a"
    outbox.put(old, piece("b", 2))
    outbox.put(new, piece("x", 1))
    outbox.flush()
    assert (await get(new)).text == "x"
    assert (await get(old)).text == "b"


async def test_without_a_pause_every_step_is_handed_over():
    channel, outbox = Channel(), Outbox()
    for n, text in enumerate("abc", start=1):
        outbox.put(channel, piece(text, n))
        outbox.flush()
        assert (await get(channel)).text == text


async def test_an_error_comes_at_once_but_after_what_was_said_before_it():
    channel, outbox = Channel(), Outbox(pause_s=60)
    outbox.put(channel, piece("a", 1))
    outbox.flush()
    await get(channel)
    outbox.put(channel, piece("b", 2))
    outbox.put(channel, EngineFailed("boom"))
    outbox.flush()
    assert (await get(channel)).text == "b"
    assert isinstance(await get(channel), EngineFailed)


async def test_a_channel_of_a_closed_loop_is_reported():
    box: list[Channel] = []

    async def make():
        box.append(Channel())

    await asyncio.to_thread(asyncio.run, make())
    outbox = Outbox()
    outbox.put(box[0], piece("a", 1))
    assert outbox.flush() == box
