"""Noise transforms."""

import pytest

from training.data.noise import TRANSFORMS, apply_noise
from training.data.stream import Stream


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("drop_accents", "¿Cuánto año está?", "¿Cuanto año esta?"),
        ("drop_opening_marks", "¿Qué? ¡Ya!", "Qué? Ya!"),
        ("ado_to_ao", "pelado y pelada", "pelao y pelá"),
        ("x_for_por", "por favor, Por ahí", "x favor, x ahí"),
        ("abbreviate", "estoy para eso, está ahí", "toy pa eso, ta ahí"),
        ("shout", "klk", "KLK"),
        ("drop_punctuation", "¿precio?", "precio"),
    ],
)
def test_a_transform_does_what_its_name_says(name: str, text: str, expected: str) -> None:
    assert TRANSFORMS[name][1](text, Stream("t")) == expected


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_survives_text_without_letters(name: str) -> None:
    for text in ("", "?", "...", "1 2", "ñ"):
        assert isinstance(TRANSFORMS[name][1](text, Stream("t")), str)


def test_noise_is_the_same_for_the_same_stream_and_names_what_it_did() -> None:
    text = "¿Cuánto cuesta la yipeta?"
    results = [apply_noise(text, Stream("noise", i)) for i in range(200)]
    assert results == [apply_noise(text, Stream("noise", i)) for i in range(200)]
    assert all((noisy == text) == (not names) for noisy, names in results)


def test_noise_never_empties_a_message() -> None:
    assert all(apply_noise("?", Stream("n", i))[0].strip() for i in range(300))
