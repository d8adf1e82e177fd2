from pathlib import Path

import pytest

from experiments.registry.errors import RegistryError
from experiments.registry.profile import differences, hashes, read_profile


def test_the_options_of_a_profile_are_kept_with_the_version_that_it_belongs_to(
    tmp_path: Path,
) -> None:
    (tmp_path / "profile.yaml").write_text("grounding: inventory\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not a part of it", encoding="utf-8")
    assert read_profile(tmp_path) == {"profile.yaml": b"grounding: inventory\n"}


def test_a_prior_that_the_options_name_is_one_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text("intent_prior: mine.npz\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"mine\.npz"):
        read_profile(tmp_path)
    (tmp_path / "mine.npz").write_bytes(b"prior")
    files = read_profile(tmp_path)
    assert files["mine.npz"] == b"prior"
    pinned = hashes(files)
    assert differences(files, pinned) == []
    (changed,) = differences(files | {"mine.npz": b"other"}, pinned)
    assert changed.startswith("the intent prior (")


def test_options_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text("intent_prior: ../elsewhere.npz\n", encoding="utf-8")
    with pytest.raises(RegistryError, match=r"profile\.yaml: intent_prior: "):
        read_profile(tmp_path)
