"""Single flight: one stream for all who ask the same at the same time."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable

import pytest

from serve_app.singleflight import FlightTable


class Source:
    """A stream that gives one item each time the test says so."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
        self.n_started = 0
        self.closed = asyncio.Event()

    def give(self, *items: str | BaseException | None) -> None:
        for item in items:
            self.steps.put_nowait(item)

    async def start(self) -> AsyncGenerator[str, None]:
        self.n_started += 1
        try:
            while (item := await self.steps.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed.set()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def table() -> FlightTable[str]:
    return FlightTable()


async def gather(stream: AsyncGenerator[str, None]) -> list[str]:
    return [item async for item in stream]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_late_joiner_sees_everything(table: FlightTable[str], source: Source) -> None:
    leader, joined = table.board("k", source.start)
    assert not joined
    source.give("a", "b")
    assert [await anext(leader), await anext(leader)] == ["a", "b"]
    joiner, joined = table.board("k", source.start)
    assert joined
    source.give("c", None)
    assert await gather(joiner) == ["a", "b", "c"]
    assert await gather(leader) == ["c"]
    assert source.n_started == 1


async def test_a_hundred_at_once_make_one_stream(table: FlightTable[str], source: Source) -> None:
    boardings = [table.board("k", source.start) for _ in range(100)]
    tasks = [asyncio.create_task(gather(boarding.stream)) for boarding in boardings]
    source.give("a", "b", None)
    assert await asyncio.gather(*tasks) == [["a", "b"]] * 100
    assert (source.n_started, sum(boarding.joined for boarding in boardings)) == (1, 99)
    await settle()
    assert len(table) == 0


async def test_leader_that_leaves_does_not_end_it_for_the_others(
    table: FlightTable[str], source: Source
) -> None:
    leader, _ = table.board("k", source.start)
    joiner, _ = table.board("k", source.start)
    source.give("a")
    assert await anext(leader) == await anext(joiner) == "a"
    await leader.aclose()
    source.give("b", None)
    assert await gather(joiner) == ["b"]


async def test_last_to_leave_cancels_the_work(table: FlightTable[str], source: Source) -> None:
    streams = [table.board("k", source.start).stream for _ in range(3)]
    source.give("a")
    for stream in streams:
        assert await anext(stream) == "a"
    for stream in streams[:2]:
        await stream.aclose()
    await settle()
    assert not source.closed.is_set()
    await streams[2].aclose()
    await asyncio.wait_for(source.closed.wait(), 1)
    await settle()
    assert len(table) == 0


async def test_cancelled_listener_counts_as_gone(table: FlightTable[str], source: Source) -> None:
    stream, _ = table.board("k", source.start)
    task = asyncio.create_task(gather(stream))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(source.closed.wait(), 1)


async def test_error_reaches_everybody(table: FlightTable[str], source: Source) -> None:
    streams = [table.board("k", source.start).stream for _ in range(3)]
    tasks = [asyncio.create_task(gather(stream)) for stream in streams]
    source.give("a", ValueError("broken"))
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, ValueError)
    assert source.closed.is_set()


async def test_failed_flight_is_not_joined(table: FlightTable[str], source: Source) -> None:
    stream, _ = table.board("k", source.start)
    source.give(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await gather(stream)
    again, joined = table.board("k", source.start)
    assert not joined
    source.give("a", None)
    assert await gather(again) == ["a"]


async def test_abandoned_flight_is_not_joined(table: FlightTable[str], source: Source) -> None:
    stream, _ = table.board("k", source.start)
    source.give("a")
    await anext(stream)
    await stream.aclose()
    again, joined = table.board("k", source.start)
    assert not joined
    source.give("b", None)
    assert await gather(again) == ["b"]
    await settle()
    assert len(table) == 0


async def test_other_keys_and_no_key_share_nothing(table: FlightTable[str]) -> None:
    sources = [Source() for _ in range(4)]
    for key, source in zip(["a", "b", None, None], sources, strict=True):
        boarding = table.board(key, source.start)
        assert not boarding.joined
        source.give("x", None)
        assert await gather(boarding.stream) == ["x"]
        assert source.n_started == 1


async def test_unshared_stream_is_closed_by_its_only_listener(
    table: FlightTable[str], source: Source
) -> None:
    stream, _ = table.board(None, source.start)
    source.give("a")
    await anext(stream)
    await stream.aclose()
    assert source.closed.is_set()


async def test_finished_flight_lingers_for_callers_without_a_cache_in_common(
    source: Source,
) -> None:
    table: FlightTable[str] = FlightTable(linger_s=0.1)
    stream, _ = table.board("k", source.start)
    source.give("a", None)
    assert await gather(stream) == ["a"]
    await settle()
    late, joined = table.board("k", source.start)
    assert joined
    assert await gather(late) == ["a"]
    await asyncio.sleep(0.12)
    again, joined = table.board("k", source.start)
    assert not joined
    source.give("b", None)
    assert await gather(again) == ["b"]


async def test_lingering_flights_are_bounded() -> None:
    table: FlightTable[str] = FlightTable(linger_s=60, max_lingering=3)
    for n in range(10):
        source = Source()
        source.give("a", None)
        await gather(table.board(f"k{n}", source.start).stream)
        await settle()
    assert len(table) == 3


async def test_stream_does_not_run_in_the_context_of_who_asked_first(
    table: FlightTable[str],
) -> None:
    """Serve ends the calls that were made in a request's context when that request ends."""
    request = contextvars.ContextVar("request", default="none")

    async def who() -> AsyncGenerator[str, None]:
        yield request.get()

    request.set("first")
    assert await gather(table.board("k", who).stream) == ["none"]


@pytest.mark.parametrize("n_listeners", [1, 5])
async def test_close_waits_for_nothing(table: FlightTable[str], n_listeners: int) -> None:
    never: Callable[[], AsyncGenerator[str, None]] = Source().start
    streams = [table.board("k", never).stream for _ in range(n_listeners)]
    tasks = [asyncio.create_task(gather(stream)) for stream in streams]
    await settle()
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.wait(tasks, timeout=1)
    assert len(done) == n_listeners
