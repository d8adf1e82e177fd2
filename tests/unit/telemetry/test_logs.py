"""Logs: JSON, one file per process, rotated."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.telemetry.logs import configure_logging


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    yield tmp_path
    for name in ("serve_app", "experiments"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(logging.NOTSET)


def test_record_is_one_line_of_json_with_its_fields(home: Path) -> None:
    path = configure_logging("gateway-a#b/c")
    assert path.parent == home / "logs"
    logging.getLogger("serve_app.gateway").info(
        "request\nsplit", extra={"request_id": "r1", "variant": "stable", "duration_ms": 1.5}
    )
    [line] = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert record["message"] == "request\nsplit"
    assert (record["request_id"], record["variant"], record["duration_ms"]) == ("r1", "stable", 1.5)
    assert record["levelname"] == "INFO"
    assert record["at"].endswith("+00:00")
    assert record["pid"] > 0


def test_exception_is_in_the_record(home: Path) -> None:
    path = configure_logging("x")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("experiments.events").exception("failed")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert "ValueError: why" in str(record)


def test_configuring_again_does_not_log_twice(home: Path) -> None:
    configure_logging("x")
    path = configure_logging("x")
    logging.getLogger("serve_app").info("once")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1


def test_level_comes_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRIL_LOG_LEVEL", "warning")
    path = configure_logging("x")
    logging.getLogger("serve_app").info("no")
    logging.getLogger("serve_app").warning("yes")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1


def test_files_are_rotated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.telemetry.logs._MAX_BYTES", 2000)
    path = configure_logging("x")
    for _ in range(200):
        logging.getLogger("serve_app").info("x" * 100)
    files = list(path.parent.glob("x.jsonl*"))
    assert len(files) == 6
    assert all(file.stat().st_size <= 2100 for file in files)
