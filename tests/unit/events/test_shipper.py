"""The writer's shipper process: starts, follows the destination, comes back when it is killed."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from experiments.events.store import EventStore
from serve_app.events.shipper import ShipperProcess
from serve_app.events.writer import EventWriter
from tests.postgres import PostgresServer
from tests.unit.experiments.events.builders import exposure


def poll(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shipped(database: str) -> int:
    with psycopg.connect(database) as db:
        try:
            row = db.execute("SELECT COUNT(*) FROM exposures").fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
        assert row is not None
        return int(row[0])


async def test_writer_ships_what_it_takes_and_survives_the_death_of_its_shipper(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setattr("serve_app.events.shipper._RESTART_S", 0.1)
    database = postgres.new_database("writer")
    writer = EventWriter(str(tmp_path))
    try:
        await writer.ship_to(database)
        await writer.append([exposure("u1")])
        await asyncio.to_thread(poll, lambda: shipped(database) == 1)
        first = writer._shipper.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await writer.append([exposure("u2")])
        await asyncio.to_thread(poll, lambda: shipped(database) == 2)
        assert writer._shipper.pid not in (None, first)
        second = postgres.new_database("writer_two")
        await writer.ship_to(second)
        await asyncio.to_thread(poll, lambda: shipped(second) == 2)
        await writer.ship_to(None)
        await asyncio.to_thread(poll, lambda: writer._shipper.pid is None)
    finally:
        writer._shipper.close()
        writer._stop.set()


def test_shipper_of_a_dead_parent_ends(tmp_path: Path) -> None:
    import subprocess
    import sys

    EventStore(tmp_path / "events.db").close()
    program = """
import sys
from pathlib import Path
from serve_app.events.shipper import ShipperProcess
import time
shipper = ShipperProcess(Path(sys.argv[1]))
shipper.ship_to("postgresql://carril@127.0.0.1:1/none")
while shipper.pid is None:
    time.sleep(0.01)
print(shipper.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "events.db")],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    poll(lambda: not alive(child))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_closed_shipper_starts_nothing(tmp_path: Path) -> None:
    shipper = ShipperProcess(tmp_path / "events.db")
    shipper.close()
    shipper.ship_to("postgresql://carril@127.0.0.1:1/none")
    assert shipper.pid is None
