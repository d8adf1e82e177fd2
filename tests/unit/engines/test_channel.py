"""Pieces of an answer on their way to a reader."""

import asyncio

from serve_app.engines.llama_cpp.channel import Channel, Outbox
from serve_app.engines.protocol import GenerationChunk, TokenLogprob, Usage
from serve_app.errors import EngineFailed

PAUSE_S = 0.05


def piece(text, n, reason=None):
    entry = TokenLogprob(token=text, token_bytes=text.encode(), logprob=-1.0)
    usage = Usage(prompt_tokens=3, completion_tokens=n)
    return GenerationChunk(text=text, usage=usage, logprobs=(entry,), finish_reason=reason)


async def test_the_first_piece_and_the_last_never_wait():
    channel = Channel(pause_s=60)
    channel.deliver(piece("a", 1))
    assert (await asyncio.wait_for(channel.get(), 1)).text == "a"
    channel.deliver(piece("b", 2))
    channel.deliver(piece("c", 3, "stop"))
    last = await asyncio.wait_for(channel.get(), 1)
    assert (last.text, last.finish_reason, last.usage.completion_tokens) == ("bc", "stop", 3)
    assert [entry.token for entry in last.logprobs] == ["b", "c"]


async def test_pieces_that_follow_closely_come_together_after_the_pause():
    loop = asyncio.get_running_loop()
    channel = Channel(PAUSE_S)
    channel.deliver(piece("a", 1))
    await channel.get()
    started = loop.time()
    for n, text in enumerate("bcd", start=2):
        channel.deliver(piece(text, n))
    assert (await channel.get()).text == "bcd"
    assert loop.time() - started >= 0.9 * PAUSE_S


async def test_pieces_far_apart_go_through_at_once():
    loop = asyncio.get_running_loop()
    channel = Channel(PAUSE_S)
    for text in "abc":
        started = loop.time()
        channel.deliver(piece(text, 1))
        assert (await channel.get()).text == text
        assert loop.time() - started < 0.5 * PAUSE_S
        await asyncio.sleep(1.2 * PAUSE_S)


async def test_an_error_comes_at_once_but_after_what_was_said_before_it():
    channel = Channel(pause_s=60)
    channel.deliver(piece("a", 1))
    await channel.get()
    channel.deliver(piece("b", 2))
    channel.deliver(EngineFailed("boom"))
    assert (await asyncio.wait_for(channel.get(), 1)).text == "b"
    assert isinstance(await asyncio.wait_for(channel.get(), 1), EngineFailed)


async def test_a_channel_of_a_closed_loop_is_reported():
    box: list[Channel] = []

    async def make():
        box.append(Channel())

    await asyncio.to_thread(asyncio.run, make())
    outbox = Outbox()
    outbox.put(box[0], piece("a", 1))
    assert outbox.flush() == box
