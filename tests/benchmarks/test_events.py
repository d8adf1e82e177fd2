"""What the event log takes, beside a bare insert loop, and how long an event waits to be durable.

One writer, as a node has one. The bare loop inserts the same exposures into the same table, in
transactions as large as the writer's own groups turn out, with the same sync. Nothing is asserted
about speed: disks differ; the target is 2,000 events a second, 10 ms at the 99th percentile.
"""

import itertools
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

from experiments.events.group_commit import GroupCommitWriter
from experiments.events.records import Event
from experiments.events.statements import sqlite_storing
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, feedback, outcome

SECONDS = float(os.environ.get("CARRIL_BENCH_SECONDS", "10"))
IN_FLIGHT = 256
"""Requests that wait for their exposure at once: the gateway's default limit."""
OFFERED_PER_S = 2_000


def events(prefix: str) -> Iterator[Event]:
    """Yield what traffic leaves: an exposure and an outcome per request, a vote now and then."""
    for n in itertools.count():
        unit = f"{prefix}-{hash((prefix, n)) & 0xFFFFFFFFFFFF:012x}"
        inference_id = f"chatcmpl-{prefix}-{n:012x}"  # ordered by time, as the gateway's
        yield exposure(unit, inference_id=inference_id)
        yield outcome(inference_id, unit=unit)
        if n % 20 == 0:
            yield feedback(f"f-{inference_id}", target=inference_id)


class _Counted:
    """A store that remembers how large its transactions were."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.sizes: list[int] = []

    def append(self, batch: list[Event]) -> None:
        self.sizes.append(len(batch))
        self._store.append(batch)


def ingest(path: Path) -> tuple[float, float]:
    """Return events a second with many callers, and events per transaction."""
    store = _Counted(EventStore(path))
    writer = GroupCommitWriter(store)
    source = events("ingest")
    waiting: list[Future[None]] = []
    n, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS:
        while len(waiting) < IN_FLIGHT:
            waiting.append(writer.submit([next(source)]))
            n += 1
        waiting.pop(0).result()
    writer.close()
    return n / (time.monotonic() - started), statistics.mean(store.sizes)


def bare_loop(path: Path, per_transaction: int) -> float:
    """Return inserts a second of a plain loop."""
    EventStore(path).close()
    storing = sqlite_storing()[type(exposure())]
    source = (event for event in events("bare") if isinstance(event, type(exposure())))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        n, started = 0, time.monotonic()
        while time.monotonic() - started < SECONDS:
            db.execute("BEGIN")
            for event in itertools.islice(source, per_transaction):
                n += 1
                db.execute(storing.texts[0], storing.values(event, n))
            db.execute("COMMIT")
        return n / (time.monotonic() - started)


def paced(path: Path) -> list[float]:
    """Return how long events wait when they come at the target rate, in milliseconds.

    Every event has its moment; one that comes late because the one before it took long is counted
    from the moment it should have come.
    """
    writer = GroupCommitWriter(EventStore(path))
    source = events("paced")
    took: list[float] = []
    started = time.monotonic()
    for n in range(int(OFFERED_PER_S * SECONDS)):
        due = started + n / OFFERED_PER_S
        if (pause := due - time.monotonic()) > 0:
            time.sleep(pause)
        writer.submit([next(source)]).add_done_callback(
            lambda _, due=due: took.append(1000 * (time.monotonic() - due))
        )
    writer.close()
    return sorted(took)


def test_ingest(tmp_path: Path) -> None:
    rate, group = ingest(tmp_path / "ingest.db")
    bare = bare_loop(tmp_path / "bare.db", max(1, round(group)))
    waits = paced(tmp_path / "paced.db")
    quantiles = {q: waits[int(q / 100 * (len(waits) - 1))] for q in (50, 99)}
    sys.stdout.write(
        f"\nevent log, {os.cpu_count()} cores\n"
        f"  sustained with {IN_FLIGHT} in flight   {rate:10,.0f} events/s"
        f"  ({group:.0f} events per sync)\n"
        f"  bare sqlite3 insert loop       {bare:10,.0f} rows/s"
        f"    (same table, transactions and sync)\n"
        f"  ratio                          {rate / bare:10.2f}\n"
        f"  at {OFFERED_PER_S:,} events/s, durable in  "
        f"p50 {quantiles[50]:.1f} ms, p99 {quantiles[99]:.1f} ms\n"
    )
    with closing(sqlite3.connect(tmp_path / "paced.db")) as db:
        stored = sum(
            db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("exposures", "outcomes", "feedback")
        )
    assert stored == len(waits) == int(OFFERED_PER_S * SECONDS)
