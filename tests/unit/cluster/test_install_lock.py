"""Installing a lock: progress, the log, and failure."""

from pathlib import Path

import pytest

from cluster import install_lock


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "base.log"


def test_what_is_installed_already_is_counted_and_logged(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "base.lock"
    lock.write_text(f"pytest=={pytest.__version__}\n")

    assert install_lock.install(lock, log_path=log) == 0
    assert "Requirement already satisfied: pytest" in log.read_text()
    assert "Installed base.lock" in capsys.readouterr().err


def test_a_failure_shows_the_end_of_the_log(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "base.lock"
    lock.write_text("no valid requirement at all ==\n")

    assert install_lock.install(lock, log_path=log) != 0
    shown = capsys.readouterr().err
    assert "Invalid requirement" in shown
    assert str(log) in shown


def test_names_are_found_however_pip_words_them() -> None:
    lines = [
        "Collecting aiohttp==3.14.5 (from -r base.lock (line 7))",
        "Requirement already satisfied: aiohttp in ./lib (3.14.5)",
        "Processing /some/where/aiohttp-3.14.5-py3-none-any.whl",
    ]

    assert [found[1] for line in lines if (found := install_lock._PACKAGE.match(line))] == [
        "aiohttp"
    ] * 3
