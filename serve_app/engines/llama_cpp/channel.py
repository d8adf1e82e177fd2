"""From the engine thread to the event loops that wait for answers, one wake-up per step."""

import asyncio
from collections import deque
from collections.abc import Sequence as Items

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
        """Wait for the next chunk, or the error that ends the answer."""
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()

    def deliver(self, item: Item) -> None:
        """Add an item. Called on the reader's event loop only."""
        self._items.append(item)
        self._ready.set()


class Outbox:
    """Collects what a step produced and hands it over, one call per event loop."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Channel, Item]]] = {}

    def put(self, channel: Channel, item: Item) -> None:
        """Queue an item for a channel."""
        self._by_loop.setdefault(channel.loop, []).append((channel, item))

    def flush(self) -> list[Channel]:
        """Deliver everything queued; return the channels whose event loop is gone."""
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
