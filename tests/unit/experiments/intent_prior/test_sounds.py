import pytest

from experiments.intent_prior.sounds import sounds


@pytest.mark.parametrize(
    ("written", "others"),
    [
        ("porque esta tan cara", ["pq ta tan kara", "xq ehta tan carra"]),
        ("mejor", ["mejol", "mejorr"]),
        ("estamos", ["tamo", "etamo"]),
        ("cotizado", ["cotizao", "cotisao"]),
        ("llave", ["yave", "llabe"]),
        ("hacer", ["acer", "aser", "haser"]),
        ("cuesta", ["kuesta", "cueta"]),
        ("verdad", ["verda", "velda"]),
        ("gente", ["jente", "hgente"]),
        ("todo nada para", ["to na pa"]),
        ("quiero", ["kiero"]),
    ],
)
def test_one_word_has_one_sound_however_it_is_written(written: str, others: list[str]) -> None:
    for other in others:
        assert sounds(other.split()) == sounds(written.split())


@pytest.mark.parametrize(
    ("one", "other"), [("carro", "caso"), ("chivo", "civo"), ("pero", "pelo"), ("dos", "tos")]
)
def test_other_words_keep_other_sounds(one: str, other: str) -> None:
    assert sounds([one]) != sounds([other])


def test_figures_in_a_row_are_one_sign() -> None:
    assert sounds(["450", "000", "o", "1k", "?"]) == ["0", "o", "0", "?"]


@pytest.mark.parametrize("word", ["h", "ss", "hhh", "s", "¿", "_", "z" * 500])
def test_no_word_is_silent(word: str) -> None:
    (sound,) = sounds([word])
    assert sound


def test_no_words_make_no_sound() -> None:
    assert sounds([]) == []
