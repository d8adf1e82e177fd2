"""From the engine thread to the event loops that wait for answers, one wake-up per step."""

import asyncio
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import replace

from serve_app.engines.protocol import GenerationChunk
from serve_app.errors import CarrilError

Item = GenerationChunk | CarrilError


class Channel:
    """The way of one answer to its reader; made and read on the reader's event loop.

    The first chunk and the last go through at once. Between them, chunks that follow closely are
    put together: each costs every process on its way to the client a wake-up, and nobody reads
    hundreds of pieces a second.

    Args:
        pause_s: Least time between two chunks but the first and the last.
    """

    def __init__(self, pause_s: float = 0.0) -> None:
        self.loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._ready = asyncio.Event()
        self._pause_s = pause_s
        self._free_at = 0.0
        """When the next chunk may go, on the event loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    async def get(self) -> Item:
        """Wait for the next chunk, or the error that ends the answer."""
        await self._ready.wait()
        item = self._items.popleft()
        if isinstance(item, GenerationChunk):
            more: list[GenerationChunk] = []
            while self._items and isinstance(self._items[0], GenerationChunk):
                more.append(self._items.popleft())  # type: ignore[arg-type]  # looked at above
            item = merged(item, more)
        if not self._items:
            self._ready.clear()
        self._free_at = self.loop.time() + self._pause_s
        return item

    def deliver(self, item: Item) -> None:
        """Add an item. Called on the reader's event loop only."""
        self._items.append(item)
        is_last = not isinstance(item, GenerationChunk) or item.finish_reason is not None
        if is_last or self.loop.time() >= self._free_at:
            self._ready.set()
        elif self._timer is None:
            self._timer = self.loop.call_at(self._free_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._items:
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
