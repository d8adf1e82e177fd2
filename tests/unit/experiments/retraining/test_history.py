"""The append-only record of submissions."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments.retraining.errors import BadRecord
from experiments.retraining.history import Submission, read_history, record_submission


def _submission(name: str) -> Submission:
    return Submission(
        at=datetime(2026, 5, 1, tzinfo=UTC),
        by="ana",
        submission_id=name,
        dataset="20260501T000000Z",
        dataset_sha256="a" * 64,
        config="okla-v2.yaml",
    )


def test_submissions_are_read_back_in_order(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    record_submission(tmp_path, _submission("one"))
    record_submission(tmp_path, _submission("two"))
    assert [entry.submission_id for entry in read_history(tmp_path)] == ["one", "two"]


def test_a_line_cut_off_by_a_crash_never_counts_and_is_written_over(tmp_path: Path) -> None:
    record_submission(tmp_path, _submission("one"))
    path = tmp_path / "retrain" / "history.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert [entry.submission_id for entry in read_history(tmp_path)] == ["one"]
    record_submission(tmp_path, _submission("two"))
    assert [entry.submission_id for entry in read_history(tmp_path)] == ["one", "two"]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    record_submission(tmp_path, _submission("one"))
    path = tmp_path / "retrain" / "history.jsonl"
    path.write_bytes(path.read_bytes() + b'{"at": "yesterday"}\n')
    with pytest.raises(BadRecord, match=r"history\.jsonl:2"):
        read_history(tmp_path)
