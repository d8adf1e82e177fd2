"""Names and versions."""

import pytest
from pydantic import ValidationError

from experiments.registry.records import State, VersionRef, family_name


@pytest.mark.parametrize(
    ("artefact", "version", "family"),
    [
        ("okla-v2", "2.0.0", "okla"),
        ("okla-v2", "2.1.0-rc.1", "okla"),
        ("okla-v2", "3.0.0", "okla-v2"),
        ("okla", "2.0.0", "okla"),
        ("okla-v12", "12.0.0", "okla"),
    ],
)
def test_the_family_is_the_name_without_its_major_version(
    artefact: str, version: str, family: str
) -> None:
    assert family_name(artefact, version) == family


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0.0", "01.0.0", "latest", "1.0.0-"])
def test_what_is_no_semantic_version_is_refused(version: str) -> None:
    with pytest.raises(ValidationError):
        VersionRef(version=version, sha256="a" * 64)


def test_every_state_has_a_word_of_the_other_vocabulary() -> None:
    assert [state.lifecycle for state in State] == [
        "candidate",
        "candidate",
        "promoted",
        "retired",
    ]
