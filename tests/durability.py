"""Kills the event writer at random instants and counts: `python -m tests.durability`.

A writer process commits events and tells which ones are acknowledged; the parent kills it with
SIGKILL again and again, and each new writer first sends once more what the last one had not
acknowledged, and some that it had, as clients do. With `--postgres` a shipper sends the events to a
server meanwhile; both are killed too. At the end every acknowledged event must be there once.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.events import tables
from experiments.events.checkpoints import PAGES_AT_MOST, checkpoint_forever
from experiments.events.group_commit import GroupCommitWriter
from experiments.events.lag import lags
from experiments.events.records import Event
from experiments.events.store import EventStore
from tests.postgres import PostgresServer, running_server
from tests.unit.experiments.events.builders import exposure, feedback, outcome

_AHEAD = 64
"""Events that wait for their acknowledgement at once."""
_ID = struct.Struct("<q")
_KEYS = {"exposures": "unit", "outcomes": "inference_id", "feedback": "feedback_id"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found."""

    acknowledged: int
    stored: int
    """Unacknowledged ones may be stored too: the writer died before it could say so."""
    resent: int
    writer_kills: int
    lost: int
    doubled: int
    """Rows above one per event, conflicts included."""
    invented: int
    """Stored, but never sent."""
    integrity_check: str
    shipper_kills: int = 0
    server_crashes: int = 0
    missing_in_server: int = 0
    more_in_server: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        faults = (self.lost, self.doubled, self.invented)
        apart = (self.missing_in_server, self.more_in_server)
        return not any(faults) and not any(apart) and self.integrity_check == "ok"


def event(n: int) -> Event:
    """Return event number n: an exposure, its outcome or a vote."""
    unit = f"u{n - n % 3}"
    match n % 3:
        case 0:
            return exposure(unit)
        case 1:
            return outcome(f"c{n}", unit=unit)
        case _:
            return feedback(f"f{n}", target=f"c{n - 1}", idempotency=f"k{n}", request_hash="h")


def name_of(n: int) -> str:
    """Return the key under which event number n is stored."""
    return f"{'ucf'[n % 3]}{n}"


def write_until_killed(path: Path, again: Sequence[int], start: int, acknowledge: int) -> None:
    """Send events, first some once more, and tell the pipe which ones are acknowledged."""
    writer = GroupCommitWriter(EventStore(path, checkpoint_pages=PAGES_AT_MOST))
    checkpoints = partial(checkpoint_forever, path, threading.Event(), period_s=0.02)
    threading.Thread(target=checkpoints, daemon=True).start()
    pending = [(n, writer.submit([event(n)])) for n in again]
    n = start
    while True:
        while len(pending) < _AHEAD:
            pending.append((n, writer.submit([event(n)])))
            n += 1
        number, done = pending.pop(0)
        done.result()
        os.write(acknowledge, _ID.pack(number))


def run(
    path: Path, *, n_events: int, n_kills: int, seed: int, server: PostgresServer | None = None
) -> Report:
    """Kill writers until so many events are acknowledged, and look at what is there."""
    started = time.monotonic()
    draw = random.Random(seed)
    EventStore(path).close()
    database = server.new_database("durability") if server is not None else None
    shipper = _shipper(path, database)
    acknowledged: set[int] = set()
    again: list[int] = []
    start = kills = shipper_kills = crashes = resent = 0
    while kills < n_kills or len(acknowledged) < n_events:
        left = max(1, n_events - len(acknowledged))
        quota = max(1, round(draw.uniform(0.3, 1.7) * left / max(1, n_kills - kills)))
        told = _one_writer(path, again, start, quota, draw)
        kills += 1
        resent += len(again)
        acknowledged |= told
        sent = range(start, max([start, *told]) + _AHEAD + 1)
        again = [n for n in sent if n not in acknowledged]
        again += draw.sample(sorted(told), min(len(told), 20))
        start = sent.stop
        if shipper is not None and draw.random() < 0.2:
            shipper.kill()
            shipper.wait()
            shipper_kills += 1
            shipper = _shipper(path, database)
        if server is not None and crashes < 1 + 4 * kills / n_kills and kills > n_kills / 10:
            server.stop("immediate")
            server.start()
            crashes += 1
    stored = _stored(path)
    flat = [name for names in stored.values() for name in names]
    known = {name_of(n) for n in range(start)}
    report = Report(
        acknowledged=len(acknowledged),
        stored=len(flat),
        resent=resent,
        writer_kills=kills,
        lost=len({name_of(n) for n in acknowledged} - set(flat)),
        doubled=len(flat) - len(set(flat)) + _conflicts(path),
        invented=len(set(flat) - known),
        integrity_check=_integrity(path),
    )
    if database is not None and shipper is not None:
        deadline = time.monotonic() + 300
        while any(lag.n_waiting for lag in lags(path)) or not lags(path):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        shipper.terminate()
        shipper.wait()
        missing, more = _compare(path, database)
        report = Report(
            **asdict(report)
            | {
                "shipper_kills": shipper_kills,
                "server_crashes": crashes,
                "missing_in_server": missing,
                "more_in_server": more,
            }
        )
    return Report(**asdict(report) | {"seconds": round(time.monotonic() - started, 1)})


def _one_writer(
    path: Path, again: Sequence[int], start: int, quota: int, draw: random.Random
) -> set[int]:
    """Run one writer; kill it at a random instant after so many acknowledgements."""
    reading, writing = os.pipe()
    pid = os.fork()  # this process has one thread, and everything is imported
    if pid == 0:
        try:
            os.close(reading)
            write_until_killed(path, again, start, writing)
        finally:
            os._exit(1)
    os.close(writing)
    told: set[int] = set()
    with open(reading, "rb", buffering=0) as acknowledgements:  # noqa: PTH123 (a pipe)
        while len(told) < quota:
            told.update(_numbers(acknowledgements.read(_ID.size * 512)))
        time.sleep(draw.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        while data := acknowledgements.read(1 << 16):
            told.update(_numbers(data))
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return told


def _numbers(data: bytes) -> list[int]:
    assert data, "the writer ended by itself"
    return [number for (number,) in _ID.iter_unpack(data)]


def _shipper(path: Path, database: str | None) -> "subprocess.Popen[bytes] | None":
    if database is None:
        return None
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.events", str(path), str(os.getpid())],
        env={**os.environ, "CARRIL_EVENTS_URL": database},
        stderr=subprocess.DEVNULL,
    )


def _stored(path: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(path)) as db:
        return {
            table: [row[0] for row in db.execute(f"SELECT {key} FROM {table}")]  # noqa: S608
            for table, key in _KEYS.items()
        }


def _conflicts(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        counts = (
            db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("exposure_conflicts", "feedback_conflicts")
        )
        return sum(counts)


def _integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])


def _compare(path: Path, database: str) -> tuple[int, int]:
    """Return the rows that the server lacks, and those it has too many, compared in full."""
    import psycopg

    missing = more = 0
    with closing(sqlite3.connect(path)) as node, psycopg.connect(database) as db:
        for table in tables.SHIPPED:
            columns = ", ".join(column.name for column in table.c)
            ours = node.execute(f"SELECT {columns} FROM {table.name}").fetchall()  # noqa: S608
            select: Any = f"SELECT {columns} FROM {table.name}"  # noqa: S608
            theirs = db.execute(select).fetchall()
            missing += len(set(ours) - set(theirs))
            more += len(set(theirs) - set(ours)) + len(theirs) - len(set(theirs))
    return missing, more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="ship to a server meanwhile")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="carril-durability-") as folder,
        running_server() if given.postgres else nullcontext() as server,
    ):
        report = run(
            Path(folder) / "events.db",
            n_events=given.events,
            n_kills=given.kills,
            seed=given.seed,
            server=server,
        )
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    sys.exit(not report.sound)


if __name__ == "__main__":
    main()
