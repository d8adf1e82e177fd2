"""The gateway's side of the event log: batched, durable as configured, never stuck."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.events.records import Enrolment, Event, Exposure, Kept
from experiments.events.spool import Spool, drain
from serve_app.config import EventsConfig
from serve_app.errors import EventsUnavailable
from serve_app.events.client import EventClient
from serve_app.telemetry.metrics import GatewayMetrics
from tests.unit.experiments.events.builders import exposure, outcome


class Writer:
    """A writer that can be slow, hang or fail."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.answers_enrolments = True

    async def append(self, events: Sequence[Event]) -> Sequence[Kept]:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(list(events))
        if not self.answers_enrolments:
            return ()
        enrolled = [event.exposure for event in events if isinstance(event, Enrolment)]
        return [Kept(e.variant, e.probability, e.bucket, e.config_hash) for e in enrolled]

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]


class Bench:
    """A client with everything around it."""

    def __init__(self, directory: Path, durability: str = "spool") -> None:
        self.writer = Writer()
        self.metrics = GatewayMetrics()
        self.directory = directory
        config = EventsConfig.model_validate({"durability": durability, "commit_timeout_s": 0.05})
        self.client = EventClient(
            self.writer.append, Spool(directory, "test"), config, self.metrics
        )

    def spooled(self) -> list[Event]:
        found: list[Event] = []
        drain(self.directory, found.extend)
        return found

    @property
    def lost(self) -> float:
        return self.metrics.events_lost._value.get()


async def test_exposure_is_stored_when_expose_returns(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.client.expose(exposure("u1"))
    assert bench.writer.events == [exposure("u1")]


async def test_what_gathers_while_the_writer_is_busy_travels_together(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.client.config = EventsConfig()
    bench.writer.open.clear()
    first = asyncio.create_task(bench.client.expose(exposure("first")))
    await asyncio.sleep(0.01)
    more = [asyncio.create_task(bench.client.expose(exposure(f"u{n}"))) for n in range(20)]
    bench.client.record(outcome("c1"))
    await asyncio.sleep(0.01)
    bench.writer.open.set()
    await asyncio.gather(first, *more)
    assert [len(batch) for batch in bench.writer.batches] == [1, 21]


async def test_outcomes_wait_for_nobody_and_are_stored_soon(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for n in range(10):
        bench.client.record(outcome(f"c{n}"))
    assert bench.writer.batches == []
    await bench.client.flush()
    assert [len(batch) for batch in bench.writer.batches] == [10]


async def test_exposure_does_not_wait_for_the_gathering_of_outcomes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.client.record(outcome("c1"))
    await asyncio.sleep(0)
    started = time.monotonic()
    await bench.client.expose(exposure("u1"))
    assert time.monotonic() - started < 0.04
    assert len(bench.writer.events) == 2


@pytest.mark.parametrize("fault", ["error", "hang"])
async def test_spool_takes_what_the_writer_does_not(tmp_path: Path, fault: str) -> None:
    bench = Bench(tmp_path)
    bench.writer.error = OSError("disk full") if fault == "error" else None
    if fault == "hang":
        bench.writer.open.clear()
    await bench.client.expose(exposure("u1"))
    bench.client.record(outcome("c1"))
    await bench.client.flush()
    assert bench.spooled() == [exposure("u1"), outcome("c1")]
    assert (bench.lost, bench.metrics.events_spooled._value.get()) == (0, 2)


async def test_one_failure_of_the_writer_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    calls = []

    async def once_broken(events: Sequence[Event]) -> Sequence[Kept]:
        calls.append(events)
        if len(calls) == 1:
            raise OSError("restarting")
        return ()

    client = EventClient(once_broken, Spool(tmp_path, "test"), EventsConfig(), bench.metrics)
    await client.expose(exposure("u1"))
    assert len(calls) == 2
    assert bench.spooled() == []


async def test_enrol_returns_what_is_kept_or_none_where_the_writer_cannot_say(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    assert await bench.client.enrol(exposure("u1")) == Kept("stable", 0.9, 5000, "0123456789ab")
    bench.writer.answers_enrolments = False  # a writer from before there were any
    assert await bench.client.enrol(exposure("u2")) is None
    assert bench.spooled() == [exposure("u2")]


async def test_strict_refuses_exposures_but_keeps_outcomes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "strict")
    bench.writer.error = OSError("disk full")
    with pytest.raises(EventsUnavailable) as caught:
        await bench.client.expose(exposure("u1"))
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2.0)
    bench.client.record(outcome("c1"))
    await bench.client.flush()
    assert bench.spooled() == [outcome("c1")]


async def test_best_effort_counts_what_it_loses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "best_effort")
    bench.writer.error = OSError("disk full")
    await bench.client.expose(exposure("u1"))
    assert bench.spooled() == []
    assert bench.lost == 1


async def test_spool_that_cannot_be_written_counts_the_loss_and_answers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    bench = Bench(tmp_path / "file")
    bench.writer.error = OSError("disk full")
    await asyncio.wait_for(bench.client.expose(exposure("u1")), 2)
    assert bench.lost == 1


async def test_broken_spool_never_leaves_a_caller_waiting(tmp_path: Path) -> None:
    class Broken(Spool):
        def append(self, events: object) -> None:
            raise RuntimeError("a bug")

    bench = Bench(tmp_path)
    bench.writer.error = OSError("disk full")
    client = EventClient(
        bench.writer.append, Broken(tmp_path, "x"), bench.client.config, bench.metrics
    )
    await asyncio.wait_for(client.expose(exposure("u1")), 2)
    bench.writer.error = None
    client._paused_until = 0.0
    await asyncio.wait_for(client.expose(exposure("u2")), 2)
    assert bench.writer.events == [exposure("u2")]


async def test_caller_that_left_does_not_stop_the_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.open.clear()
    gone = asyncio.create_task(bench.client.expose(exposure("gone")))
    stays = asyncio.create_task(bench.client.expose(exposure("stays")))
    await asyncio.sleep(0.01)
    gone.cancel()
    bench.writer.open.set()
    await asyncio.wait_for(stays, 2)
    units = [event.unit for event in bench.writer.events if isinstance(event, Exposure)]
    assert units == ["gone", "stays"]


async def test_writer_that_is_down_delays_a_request_once_not_every_one(tmp_path: Path) -> None:
    """While it hangs, each request would otherwise wait for two timeouts."""
    bench = Bench(tmp_path)
    bench.writer.open.clear()
    await bench.client.expose(exposure("first"))
    started = time.monotonic()
    for n in range(20):
        await bench.client.expose(exposure(f"u{n}"))
    assert time.monotonic() - started < 0.5
    assert len(bench.spooled()) == 21


async def test_full_queue_refuses_exposures_and_counts_outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.events.client._MAX_PENDING", 2)
    bench = Bench(tmp_path)
    for n in range(3):
        bench.client.record(outcome(f"c{n}"))
    with pytest.raises(EventsUnavailable):
        await bench.client.expose(exposure("u1"))
    assert bench.lost == 1
