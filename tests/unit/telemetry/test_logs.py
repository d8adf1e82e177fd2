"""Logs: JSON, one file per process, rotated."""

import json
import logging
import time
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


def lines(path: Path) -> list[str]:
    """Return what was logged so far, without waiting for the thread that writes it."""
    for handler in logging.getLogger("serve_app").handlers:
        handler.flush()
    return path.read_text(encoding="utf-8").splitlines()


def test_record_is_one_line_of_json_with_its_fields(home: Path) -> None:
    path = configure_logging("gateway-a#b/c")
    assert path.parent == home / "logs"
    logging.getLogger("serve_app.gateway").info(
        "request\nsplit", extra={"request_id": "r1", "variant": "stable", "duration_ms": 1.5}
    )
    [line] = lines(path)
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
    assert len(lines(path)) == 1


def test_level_comes_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRIL_LOG_LEVEL", "warning")
    path = configure_logging("x")
    logging.getLogger("serve_app").info("no")
    logging.getLogger("serve_app").warning("yes")
    assert len(lines(path)) == 1


def test_files_are_rotated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.telemetry.logs._MAX_BYTES", 2000)
    path = configure_logging("x")
    for _ in range(200):
        logging.getLogger("serve_app").info("x" * 100)
    lines(path)
    files = list(path.parent.glob("x.jsonl*"))
    assert len(files) == 6
    assert all(file.stat().st_size <= 2100 for file in files)


def test_record_in_no_hurry_is_written_by_itself(home: Path) -> None:
    path = configure_logging("x")
    logging.getLogger("serve_app").info("soon")
    deadline = time.monotonic() + 5
    while not path.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_warning_is_in_the_file_at_once_and_in_its_place(home: Path) -> None:
    path = configure_logging("x")
    for level, text in ((logging.INFO, "before"), (logging.WARNING, "now"), (logging.INFO, "no")):
        logging.getLogger("serve_app").log(level, text)
    found = [json.loads(line)["message"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert found == ["before", "now"]


def test_record_that_cannot_be_formatted_takes_no_other_with_it(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configure_logging("x")
    logger = logging.getLogger("serve_app")
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler would raise
    logger.info("one")
    logger.info("%d", "no number")
    logger.warning("two")
    assert [json.loads(line)["message"] for line in lines(path)] == ["one", "two"]
    assert "no number" in capsys.readouterr().err


def test_what_waits_is_written_when_the_handler_closes(home: Path) -> None:
    path = configure_logging("x")
    logging.getLogger("serve_app").info("last words")
    for handler in logging.getLogger("serve_app").handlers:
        handler.close()
    assert "last words" in path.read_text(encoding="utf-8")
