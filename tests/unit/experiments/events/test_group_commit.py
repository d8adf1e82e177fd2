"""Group commit: one sync for many, and no batch pays for another's fault."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from experiments.events.group_commit import GroupCommitWriter, QueueFull
from experiments.events.records import Event
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, outcome

WAIT_S = 10


class Gate:
    """A store whose commits wait until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.store = EventStore(path)
        self.entered = threading.Event()
        self.open = threading.Event()
        self.sizes: list[int] = []

    def append(self, events: Sequence[Event]) -> None:
        self.entered.set()
        assert self.open.wait(WAIT_S)
        self.sizes.append(len(events))
        self.store.append(events)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "events.db")
    yield gate
    gate.open.set()
    gate.store.close()


def busy(gate: Gate, writer: GroupCommitWriter) -> "Future[None]":
    """Keep the writer's thread in a commit."""
    first = writer.submit([exposure("first")])
    assert gate.entered.wait(WAIT_S)
    return first


def test_what_gathers_during_a_commit_shares_the_next_one(gate: Gate) -> None:
    writer = GroupCommitWriter(gate)
    futures = [busy(gate, writer)]
    futures += [writer.submit([exposure(f"u{i}"), outcome(f"c{i}")]) for i in range(50)]
    gate.open.set()
    for future in futures:
        future.result(WAIT_S)
    writer.close()
    assert gate.sizes == [1, 100]
    assert gate.store.count("exposures") == 51


def test_bad_batch_fails_alone(gate: Gate) -> None:
    writer = GroupCommitWriter(gate)
    busy(gate, writer)
    good = writer.submit([exposure("good")])
    bad = writer.submit([exposure("bad", variant=None)])
    late = writer.submit([exposure("late")])
    gate.open.set()
    good.result(WAIT_S)
    late.result(WAIT_S)
    with pytest.raises(sqlite3.IntegrityError):
        bad.result(WAIT_S)
    writer.close()
    assert gate.store.count("exposures") == 3


def test_store_that_is_unavailable_is_asked_once_for_all(tmp_path: Path) -> None:
    class Broken:
        calls = 0
        started = threading.Event()
        go = threading.Event()

        def append(self, events: Sequence[Event]) -> None:
            self.calls += 1
            self.started.set()
            assert self.go.wait(WAIT_S)
            raise sqlite3.OperationalError("database is locked")

    sink = Broken()
    writer = GroupCommitWriter(sink)
    futures = [writer.submit([exposure("first")])]
    assert sink.started.wait(WAIT_S)
    futures += [writer.submit([exposure(f"u{i}")]) for i in range(100)]
    sink.go.set()
    for future in futures:
        with pytest.raises(sqlite3.OperationalError):
            future.result(WAIT_S)
    writer.close()
    # Each call may wait 30 s for a lock; one per batch would block the writer for hours.
    assert sink.calls == 2


def test_caller_that_gave_up_does_not_stop_the_writer(gate: Gate) -> None:
    writer = GroupCommitWriter(gate)
    busy(gate, writer)
    given_up = writer.submit([exposure("given-up")])
    given_up.cancel()
    kept = writer.submit([exposure("kept")])
    gate.open.set()
    kept.result(WAIT_S)
    writer.submit([exposure("later")]).result(WAIT_S)
    writer.close()


def test_full_queue_refuses_instead_of_growing(gate: Gate) -> None:
    writer = GroupCommitWriter(gate, max_pending=2)
    busy(gate, writer)
    futures = [writer.submit([exposure(f"u{i}")]) for i in range(2)]
    assert writer.pending == 2
    with pytest.raises(QueueFull, match="2 batches behind"):
        writer.submit([exposure("one too many")])
    gate.open.set()
    for future in futures:
        future.result(WAIT_S)
    writer.close()


def test_close_commits_what_was_handed_in(gate: Gate) -> None:
    writer = GroupCommitWriter(gate)
    busy(gate, writer)
    last = writer.submit([exposure("last")])
    gate.open.set()
    writer.close()
    assert last.done()
    assert gate.store.count("exposures") == 2


def test_submit_after_close_is_refused(gate: Gate) -> None:
    gate.open.set()
    writer = GroupCommitWriter(gate)
    writer.close()
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit([exposure("u1")])


def test_many_threads_lose_nothing(gate: Gate) -> None:
    gate.open.set()
    writer = GroupCommitWriter(gate)

    def work(name: int) -> None:
        for i in range(50):
            writer.submit([exposure(f"{name}-{i}")]).result(WAIT_S)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    writer.close()
    assert gate.store.count("exposures") == 400
    assert len(gate.sizes) < 400
