"""Families are remembered by what they are made from, and never wrongly."""

from pathlib import Path

import pytest

from tests.full_disk import files, full_disk
from training.data import family_cache
from training.data.family_cache import remembered_families

PHRASES = [["cuanto vale la hilux"], ["hola buenas"], ["cuanto vale la hilu"]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "carril"


def test_a_known_result_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = remembered_families(PHRASES)
    assert groups == [0, 1, 0]

    def fail(_: object) -> list[int]:
        raise AssertionError("computed again")

    monkeypatch.setattr(family_cache, "group_near_duplicates", fail)
    assert remembered_families(PHRASES) == groups
    with pytest.raises(AssertionError, match="computed again"):
        remembered_families([*PHRASES, ["otra cosa"]])


@pytest.mark.parametrize("content", ["", "{}", "[0, 1]", '[0, "1", 0]', "[0, 1, 5]"])
def test_a_broken_file_is_computed_anew(content: str, cache: Path) -> None:
    remembered_families(PHRASES)
    (file,) = cache.iterdir()
    file.write_text(content)
    assert remembered_families(PHRASES) == [0, 1, 0]
    assert file.read_text() == "[0, 1, 0]"


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert remembered_families(PHRASES) == [0, 1, 0]


def test_a_full_disk_is_no_error_and_keeps_nothing(tmp_path: Path) -> None:
    many = PHRASES * 20
    with full_disk():
        assert remembered_families(many)[:3] == [0, 1, 0]
    assert files(tmp_path) == {}


def test_a_user_without_a_cache_folder_is_served_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert remembered_families(PHRASES) == [0, 1, 0]
    assert not list(tmp_path.iterdir())
