"""Single flight: identical requests in progress share one stream.

The first request of a key starts a flight; later ones join it, see what has been produced so far,
and then follow live. The work belongs to the flight, not to whoever started it: it ends early only
when nobody listens any more.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Flight(Generic[T]):
    """One stream with a memory, for any number of listeners."""

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._source = source
        self._items: list[T] = []
        self._error: BaseException | None = None
        self._done = False
        self._changed = asyncio.Event()
        self._listeners = 0
        # An empty context: the framework ties calls to the request whose context they run in, and
        # would end this stream for everybody when the first client leaves.
        self._task = asyncio.create_task(self._pump(), context=contextvars.Context())

    @property
    def done(self) -> bool:
        """Whether the stream has ended, well or not."""
        return self._done

    @property
    def succeeded(self) -> bool:
        """Whether the stream has ended well."""
        return self._done and self._error is None

    @property
    def abandoned(self) -> bool:
        """Whether the last listener left before the end, so that the stream is being cancelled."""
        return self._task.cancelling() > 0

    async def listen(self) -> AsyncGenerator[T, None]:
        """Yield every item, those of the past first; raise what the stream raised."""
        self._listeners += 1
        position = 0
        try:
            while True:
                while position < len(self._items):
                    yield self._items[position]
                    position += 1
                if self._done:
                    if self._error is not None:
                        raise self._error
                    return
                await self._changed.wait()
        finally:
            self._listeners -= 1
            if self._listeners == 0 and not self._done:
                self._task.cancel()

    async def _pump(self) -> None:
        try:
            async for item in self._source:
                self._items.append(item)
                self._wake()
        except BaseException as error:
            self._error = error
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._done = True
            self._wake()
            await self._source.aclose()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Boarding(NamedTuple, Generic[T]):
    """A stream to listen to, and whether it was running already."""

    stream: AsyncGenerator[T, None]
    joined: bool


class FlightTable(Generic[T]):
    """The flights of a process, by key.

    Args:
        linger_s: Seconds that a finished flight can still be joined. Covers callers that have no
            cache in common and arrive just after the end.
        max_lingering: Finished flights kept at most.
    """

    def __init__(self, *, linger_s: float = 0.0, max_lingering: int = 256) -> None:
        self._linger_s = linger_s
        self._max_lingering = max_lingering
        self._flights: dict[str, Flight[T]] = {}
        self._finished: dict[str, float] = {}

    def board(self, key: str | None, start: Callable[[], AsyncGenerator[T, None]]) -> Boarding[T]:
        """Join the flight of a key, or start it.

        Args:
            key: Two requests with one key may share one answer; None never shares.
            start: Returns the stream; called only if there is no flight to join.
        """
        if key is None:
            return Boarding(start(), joined=False)
        self._expire()
        flight = self._flights.get(key)
        if flight is not None and not flight.abandoned and (not flight.done or flight.succeeded):
            return Boarding(flight.listen(), joined=True)
        flight = Flight(start())
        self._flights[key] = flight
        flight._task.add_done_callback(lambda _: self._landed(key, flight))
        return Boarding(flight.listen(), joined=False)

    def __len__(self) -> int:
        return len(self._flights)

    def _landed(self, key: str, flight: Flight[T]) -> None:
        if self._flights.get(key) is not flight:
            return
        if self._linger_s > 0 and flight.succeeded:
            self._finished[key] = time.monotonic() + self._linger_s
            while len(self._finished) > self._max_lingering:
                self._drop(next(iter(self._finished)))
        else:
            self._drop(key)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._finished and next(iter(self._finished.values())) <= now:
            self._drop(next(iter(self._finished)))

    def _drop(self, key: str) -> None:
        self._finished.pop(key, None)
        flight = self._flights.get(key)
        if flight is not None and flight.done:
            del self._flights[key]
