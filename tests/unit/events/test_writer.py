"""The event writer without Ray: one file, spool drained beside live writes."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from experiments.events.records import Enrolment, Event, Kept
from experiments.events.spool import Spool
from experiments.events.store import EventStore
from serve_app.events.writer import EventWriter, spool_path, store_path
from tests.unit.experiments.events.builders import exposure, outcome, transcript


@pytest.fixture
async def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventWriter]:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setattr("serve_app.events.writer._DRAIN_PERIOD_S", 0.02)
    writer = EventWriter(str(tmp_path))
    yield writer
    writer._stop.set()


def count(home: Path, table: str = "exposures") -> int:
    store = EventStore(store_path(home), read_only=True)
    try:
        return store.count(table)
    finally:
        store.close()


async def test_append_returns_when_the_events_are_on_disk(
    writer: EventWriter, tmp_path: Path
) -> None:
    await writer.append([exposure("u1"), outcome("c1")])
    assert (count(tmp_path), count(tmp_path, "outcomes")) == (1, 1)


async def test_spooled_events_are_collected_while_others_arrive(
    writer: EventWriter, tmp_path: Path
) -> None:
    spool = Spool(spool_path(tmp_path), "gateway")
    for n in range(20):
        await asyncio.to_thread(spool.append, [exposure(f"spooled-{n}")])
        await writer.append([exposure(f"direct-{n}"), exposure(f"spooled-{n}")])
    deadline = time.monotonic() + 5
    while any(spool_path(tmp_path).iterdir()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert count(tmp_path) == 40


async def test_an_enrolment_is_answered_with_what_the_unit_was_given_first(
    writer: EventWriter, tmp_path: Path
) -> None:
    first, later = exposure("u1"), exposure("u1", variant="candidate", probability=0.1, bucket=1)
    second = Enrolment(exposure("u2", bucket=7))
    asked: list[Event] = [Enrolment(first), exposure("other"), second]
    kept = Kept("stable", 0.9, 5000, "0123456789ab")
    assert await writer.append(asked) == [kept, kept._replace(bucket=7)]
    assert await writer.append([Enrolment(later)] * 2) == [kept] * 2
    assert (count(tmp_path), count(tmp_path, "exposure_conflicts")) == (3, 0)
    assert await writer.append([later]) == ()
    assert count(tmp_path, "exposure_conflicts") == 1


async def test_writers_and_gateways_that_race_for_a_unit_agree(
    writer: EventWriter, tmp_path: Path
) -> None:
    arms = ("stable", "candidate")
    answers = await asyncio.gather(
        *(
            writer.append([Enrolment(exposure(f"u{n % 20}", variant=arms[n % 7 % 2]))])
            for n in range(200)
        )
    )
    seen = {(n % 20, kept.variant) for n, (kept,) in enumerate(answers)}
    assert len(seen) == 20
    assert (count(tmp_path), count(tmp_path, "exposure_conflicts")) == (20, 0)


async def test_cancelled_append_does_not_stop_the_writer(
    writer: EventWriter, tmp_path: Path
) -> None:
    tasks = [asyncio.create_task(writer.append([exposure(f"u{n}")])) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.wait_for(writer.append([exposure("last")]), 5)
    assert count(tmp_path) >= 11


async def test_captured_texts_are_deleted_when_their_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setattr("serve_app.events.writer._PURGE_PERIOD_S", 0.02)
    writer = EventWriter(str(tmp_path))
    now = time.time()
    old = transcript("old", unrated_until=now - 1, keep_until=now + 1000)
    await writer.append([old, transcript("new", unrated_until=now + 900, keep_until=now + 1000)])
    deadline = time.monotonic() + 5
    while count(tmp_path, "transcripts") > 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    writer._stop.set()
    assert count(tmp_path, "transcripts") == 1
