"""Checkpoints beside the writer."""

import threading
import time
from pathlib import Path

import pytest

from experiments.events.checkpoints import checkpoint_forever
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure


def test_pages_reach_the_file_while_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    store = EventStore(path, checkpoint_pages=1_000_000)
    store.append(exposure(f"u{n}") for n in range(5_000))
    before = path.stat().st_size
    stop = threading.Event()
    thread = threading.Thread(
        target=checkpoint_forever, args=(path, stop), kwargs={"period_s": 0.02}
    )
    thread.start()
    try:
        deadline = time.monotonic() + 10
        for n in range(100_000):
            store.append([exposure(f"later-{n}")])
            if path.stat().st_size > before:
                break
            assert time.monotonic() < deadline
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()
    assert store.count("exposures") == 5_000 + n + 1


def test_a_file_that_cannot_be_read_is_tried_again_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"no database at all, but long enough to be one " * 50)
    stop = threading.Event()
    thread = threading.Thread(
        target=checkpoint_forever, args=(path, stop), kwargs={"period_s": 0.02}
    )
    thread.start()
    deadline = time.monotonic() + 5
    while len(caplog.records) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert "not a database" in caplog.records[0].reason
