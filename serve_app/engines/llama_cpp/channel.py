"""From the engine thread to the event loops that wait for answers, with few wake-ups."""

import asyncio
import math
import time
import weakref
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import replace

from serve_app.engines.protocol import GenerationChunk
from serve_app.errors import CarrilError

Item = GenerationChunk | CarrilError


class Channel:
    """The way of one answer to its reader; made and read on the reader's event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._ready = asyncio.Event()

    async def get(self) -> Item:
        """Wait for the next chunk, or the error that ends the answer.

        Chunks that have come together are put together.
        """
        await self._ready.wait()
        item = self._items.popleft()
        if isinstance(item, GenerationChunk):
            more: list[GenerationChunk] = []
            while self._items and isinstance(self._items[0], GenerationChunk):
                more.append(self._items.popleft())  # type: ignore[arg-type]  # looked at above
            item = merged(item, more)
        if not self._items:
            self._ready.clear()
        return item

    def deliver(self, item: Item) -> None:
        """Add an item. Called on the reader's event loop only."""
        self._items.append(item)
        self._ready.set()


def merged(first: GenerationChunk, more: Items[GenerationChunk]) -> GenerationChunk:
    """Return consecutive chunks of one answer as a single one."""
    if not more:
        return first
    chunks = (first, *more)
    return replace(
        more[-1],
        text="".join(chunk.text for chunk in chunks),
        logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
        prompt_text=first.prompt_text,
        prompt_logprobs=first.prompt_logprobs,
    )


class Outbox:
    """Collects what steps produce and hands it over, one call per event loop.

    An answer's first chunk and its last go at once, and take along whatever else has gathered.
    Between them everything waits for the end of a pause: each hand-over wakes every process on the
    way to the client, and nobody reads hundreds of pieces a second. Only for the engine thread.

    Args:
        pause_s: Seconds between two hand-overs, at least, unless something is urgent.
    """

    def __init__(self, pause_s: float = 0.0) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Channel, Item]]] = {}
        self._begun: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._pause_s = pause_s
        self._flushed_at = -math.inf
        self._urgent = False

    def put(self, channel: Channel, item: Item) -> None:
        """Queue an item for a channel."""
        self._by_loop.setdefault(channel.loop, []).append((channel, item))
        if not isinstance(item, GenerationChunk) or item.finish_reason is not None:
            self._urgent = True
        elif channel not in self._begun:
            self._begun.add(channel)
            self._urgent = True

    def flush(self) -> list[Channel]:
        """Deliver what is queued, if it is time; return the channels whose event loop is gone."""
        now = time.monotonic()
        if not self._urgent and now - self._flushed_at < self._pause_s:
            return []
        self._flushed_at, self._urgent = now, False
        lost: list[Channel] = []
        for loop, letters in self._by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, letters)
            except RuntimeError:  # the loop was closed under its readers
                lost += [channel for channel, _ in letters]
        self._by_loop.clear()
        return lost


def _deliver(letters: Items[tuple[Channel, Item]]) -> None:
    for channel, item in letters:
        channel.deliver(item)
