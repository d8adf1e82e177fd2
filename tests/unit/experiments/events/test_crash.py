"""What was acknowledged survives SIGKILL and full disks."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure

ROOT = Path(__file__).parents[4]

_WRITER = """
import sys
from pathlib import Path
from experiments.events.group_commit import GroupCommitWriter
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure
writer = GroupCommitWriter(EventStore(Path(sys.argv[1])))
start = int(sys.argv[2])
pending = []
for n in range(start, 10_000_000):
    pending.append((n, writer.submit([exposure(f"u{n}")])))
    if len(pending) >= 8:
        acknowledged, future = pending.pop(0)
        future.result()
        print(acknowledged, flush=True)
"""


def test_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    acknowledged: set[int] = set()
    for round_ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(round_ * 1_000_000)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        target = len(acknowledged) + 40 + 17 * round_
        for line in process.stdout:
            acknowledged.add(int(line))
            if len(acknowledged) >= target:
                process.send_signal(signal.SIGKILL)
                break
        # What it had printed before it died was acknowledged too.
        acknowledged.update(int(line) for line in process.stdout if line.endswith("\n"))
        assert process.wait(10) == -signal.SIGKILL
        process.stdout.close()
    store = EventStore(path)
    units = {row[0] for row in store._db.execute("SELECT unit FROM exposures")}
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    assert len(acknowledged) >= 100
    assert {f"u{n}" for n in acknowledged} <= units


_ENROLLER = """
import sys
from pathlib import Path
from experiments.events.group_commit import GroupCommitWriter
from experiments.events.records import Enrolment
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure
path = Path(sys.argv[1])
writer, reader = GroupCommitWriter(EventStore(path)), EventStore(path, read_only=True)
for n in range(10_000_000):
    asked = exposure(f"u{n * 7 % 500}", variant=sys.argv[2])
    writer.submit([Enrolment(asked)]).result()
    print(asked.unit, reader.kept(asked).variant, flush=True)
"""


def test_a_unit_keeps_the_variant_that_was_acknowledged_whatever_split_and_death_follow(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.db"
    given: dict[str, set[str]] = {}
    for arm, n_answers in (("a", 60), ("b", 150), ("c", 300)):
        process = subprocess.Popen(
            [sys.executable, "-c", _ENROLLER, str(path), arm],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for n, line in enumerate(process.stdout):
            unit, variant = line.split()
            given.setdefault(unit, set()).add(variant)
            if n >= n_answers:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        process.wait(10)
    store = EventStore(path)
    kept = dict(store._db.execute("SELECT unit, variant FROM exposures"))
    assert store.count("exposure_conflicts") == 0
    store.close()
    assert {unit: {kept[unit]} for unit in given} == given
    assert {variant for variants in given.values() for variant in variants} == {"a", "b", "c"}


def test_full_disk_is_an_error_and_the_store_recovers(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "events.db")
    store.append([exposure("before")])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.append([exposure(f"u{n}", served_model="x" * 500) for n in range(500)])
    assert store.count("exposures") == 1
    store._db.execute("PRAGMA max_page_count=1000000")
    store.append([exposure("after")])
    assert store.count("exposures") == 2
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def test_file_size_limit_during_a_commit_loses_only_that_commit(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure
store = EventStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
n = 0
try:
    for n in range(10_000):
        store.append([exposure(f"u{n}")])
except Exception as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.append([exposure("after")])
    print(n)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "events.db")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    store = EventStore(tmp_path / "events.db")
    assert store.count("exposures") == int(printed) + 1
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
