"""The spool: written in full or not at all, drained exactly once."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.events.records import SCHEMA_VERSION, Event, Exposure, encode
from experiments.events.spool import Spool, drain
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, outcome

ROOT = Path(__file__).parents[4]


def units(events: Sequence[Event]) -> list[str]:
    return [event.unit for event in events if isinstance(event, Exposure)]


def test_spooled_events_reach_the_store_once(tmp_path: Path) -> None:
    Spool(tmp_path / "spool", "a").append([exposure("u1"), outcome("c1")])
    Spool(tmp_path / "spool", "b").append([exposure("u2")])
    stored: list[Event] = []
    assert drain(tmp_path / "spool", stored.extend) == 3
    assert sorted(units(stored)) == ["u1", "u2"]
    assert drain(tmp_path / "spool", stored.extend) == 0
    assert list((tmp_path / "spool").iterdir()) == []


def test_absent_directory_is_empty(tmp_path: Path) -> None:
    assert drain(tmp_path / "none", lambda _: None) == 0


def test_writer_goes_on_after_a_drain(tmp_path: Path) -> None:
    spool, stored = Spool(tmp_path, "a"), list[Event]()
    for name in ("u1", "u2", "u3"):
        spool.append([exposure(name)])
        drain(tmp_path, stored.extend)
    assert units(stored) == ["u1", "u2", "u3"]


def test_failing_store_loses_nothing(tmp_path: Path) -> None:
    Spool(tmp_path, "a").append([exposure("u1")])

    def refuse(_: Sequence[Event]) -> None:
        raise OSError("disk full")

    for _ in range(3):
        with pytest.raises(OSError, match="disk full"):
            drain(tmp_path, refuse)
    Spool(tmp_path, "a").append([exposure("u2")])
    stored: list[Event] = []
    drain(tmp_path, stored.extend)
    assert sorted(units(stored)) == ["u1", "u2"]


def test_torn_last_line_is_skipped(tmp_path: Path) -> None:
    Spool(tmp_path, "a").append([exposure("u1")])
    with (tmp_path / "a.jsonl").open("a", encoding="utf-8") as file:
        file.write(encode(exposure("torn"))[:40])
    stored: list[Event] = []
    assert drain(tmp_path, stored.extend) == 1
    assert units(stored) == ["u1"]
    assert list(tmp_path.iterdir()) == []


def test_complete_line_that_cannot_be_read_is_kept_for_a_build_that_can(tmp_path: Path) -> None:
    newer = json.loads(encode(exposure("newer"))) | {"schema_version": SCHEMA_VERSION + 1}
    (tmp_path / "a.jsonl").write_text(
        f"{encode(exposure('u1'))}\n{json.dumps(newer)}\n{encode(exposure('u2'))}\n",
        encoding="utf-8",
    )
    stored: list[Event] = []
    assert drain(tmp_path, stored.extend) == 2
    assert units(stored) == ["u1", "u2"]
    assert drain(tmp_path, stored.extend) == 0
    [kept] = tmp_path.iterdir()
    assert [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] == [newer]


def test_concurrent_writers_and_drains_move_every_event_exactly_once(tmp_path: Path) -> None:
    n_writers, n_events = 4, 60
    stored: list[Event] = []
    done = threading.Event()

    def write(name: int) -> None:
        spool = Spool(tmp_path, f"w{name}")
        for i in range(n_events):
            spool.append([exposure(f"{name}-{i}")])

    def drain_until_done() -> None:
        while not done.is_set():
            drain(tmp_path, stored.extend)

    drainer = threading.Thread(target=drain_until_done)
    drainer.start()
    writers = [threading.Thread(target=write, args=(n,)) for n in range(n_writers)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    drainer.join()
    drain(tmp_path, stored.extend)
    assert sorted(units(stored)) == sorted(
        f"{name}-{i}" for name in range(n_writers) for i in range(n_events)
    )


def test_drain_that_is_overtaken_by_another_loses_nothing(tmp_path: Path) -> None:
    for n in range(3):
        Spool(tmp_path / "spool", f"w{n}").append([exposure(f"u{n}")])
    store = EventStore(tmp_path / "events.db")

    def overtaken(events: Sequence[Event]) -> None:
        drain(tmp_path / "spool", store.append)
        store.append(events)

    drain(tmp_path / "spool", overtaken)
    assert store.count("exposures") == 3
    store.close()


def test_full_disk_is_an_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from experiments.events.spool import Spool
from tests.unit.experiments.events.builders import exposure
spool = Spool(Path(sys.argv[1]), "full")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
n = 0
try:
    for n in range(1000):
        spool.append([exposure(f"u{n}")])
except OSError as error:
    print(n)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    stored: list[Event] = []
    drain(tmp_path, stored.extend)
    assert 0 < int(printed) < 20
    assert units(stored) == [f"u{i}" for i in range(int(printed))]


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    Spool(tmp_path, "a").append([exposure("u1")])
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o077 == 0
