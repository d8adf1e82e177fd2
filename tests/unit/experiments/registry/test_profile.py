from pathlib import Path

from experiments.registry.profile import read_profile


def test_the_options_of_a_profile_are_kept_with_the_version_that_it_belongs_to(
    tmp_path: Path,
) -> None:
    (tmp_path / "profile.yaml").write_text("grounding: inventory\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not a part of it", encoding="utf-8")
    assert read_profile(tmp_path) == {"profile.yaml": b"grounding: inventory\n"}
