"""Whatever writes a file leaves the old one, and nothing beside it, where the disk is full."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.cli.main import run
from cluster.local_cluster import ClusterRecord
from cluster.ray_commands import install
from experiments.drift.baseline import write_text
from experiments.drift.errors import BadInput
from experiments.jobs.record import JobFolder
from experiments.whole_file import opened_whole, write_whole
from serve_app.gateway.last_good import LastGoodConfig
from tests.full_disk import ROOM, files, full_disk
from tests.unit.experiments.feedback.test_analysis_cli import answer, store


def _record(home: Path) -> None:
    ClusterRecord(
        cluster_id="c" * 32,
        started_at=datetime(2026, 1, 31, tzinfo=UTC),
        http_url="http://127.0.0.1:1",
        dashboard_url="http://127.0.0.1:2",
        gcs_address="127.0.0.1:3",
        token_path=None,
        haproxy=False,
        working_dir="/",
        temp_dir="/",
    ).save(home)


def _streamed(home: Path) -> None:
    with opened_whole(home / "stream.jsonl") as file:
        for _ in range(100):
            file.write(b"a line of the file\n")


WRITERS: dict[str, Callable[[Path], object]] = {
    "whole": lambda home: write_whole(home / "a.json", b"x" * 100),
    "streamed": _streamed,
    "the record of the cluster": _record,
    "Ray's commands": lambda home: install(home),
    "the last good configuration": lambda home: LastGoodConfig(home).save({"a": "b" * 100}),
    "drift": lambda home: write_text(home / "state.json", "x" * 100),
    "a job": lambda home: JobFolder(home, "finetune-1").put("report.json", "x" * 100),
    "feedback": lambda home: run(["feedback", "report", "--out", str(home / "report")]),
    "an export": lambda home: run(["feedback", "export", "--out", str(home / "out.jsonl")]),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    store(tmp_path, answer(1, unit="u1", thumbs=1))
    write(tmp_path)
    before = files(tmp_path)
    assert max(map(len, before.values())) > ROOM

    with full_disk(), suppress(OSError, BadInput):
        write(tmp_path)

    assert files(tmp_path) == before


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old")

    def fails() -> None:
        with opened_whole(path) as file:
            file.write(b"new")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()

    assert files(tmp_path) == {"a": b"old"}


def test_permissions_are_those_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "a", b"", mode=0o600)
        write_whole(tmp_path / "b", b"", mode=0o755)
    finally:
        os.umask(before)

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes == [0o600, 0o755]
