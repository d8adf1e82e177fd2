from collections import Counter
from zlib import crc32

import pytest

from experiments.intent_prior.features import MAX_CHARS, features_of

PIECE = 1 << 31

MESSAGES = [
    "¿Cuánto cuesta la Hilux 2019?",
    "klk   manito\ttienen la jeepeta? dime a ve!",
    "a",
    "¡Ñoño, ACCIÓN! co\u0301mo",
    "10,000 kms... RD$450 mil :) \U0001f697",
    "supercalifragilisticoespialidoso " * 2,
]


def words_as_hashes(grams: Counter[str]) -> Counter[int]:
    return Counter({crc32(gram.encode()) & ~PIECE: n for gram, n in grams.items()})


def pieces_as_hashes(grams: Counter[str]) -> Counter[int]:
    return Counter({crc32(gram.encode()) | PIECE: n for gram, n in grams.items()})


def test_words_pairs_and_pieces_of_a_message_are_these() -> None:
    found = features_of("Qué tal?")
    assert found.words == words_as_hashes(
        Counter(["que", "tal", "?", "que tal", "tal ?"])
    )  # "qué" has lost its accent
    assert found.pieces == pieces_as_hashes(
        Counter(
            [
                *(" q", "qu", "ue", "e ", " qu", "que", "ue ", " que", "que ", " que "),
                *(" t", "ta", "al", "l?", "? ", " ta", "tal", "al?", "l? "),
                *(" tal", "tal?", "al? ", " tal?", "tal? "),
            ]
        )
    )


@pytest.mark.parametrize("message", MESSAGES)
def test_they_are_what_scikit_learn_makes_of_it(message: str) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    words = text.TfidfVectorizer(
        ngram_range=(1, 2), strip_accents="unicode", token_pattern=r"(?u)\b\w+\b|[¿?!]"
    )
    pieces = text.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), strip_accents="unicode")
    found = features_of(message)
    assert found.words == words_as_hashes(Counter(words.build_analyzer()(message)))
    assert found.pieces == pieces_as_hashes(Counter(pieces.build_analyzer()(message)))


def test_what_it_sounds_like_is_seen_as_words_in_company_and_across_words() -> None:
    found = features_of("K kuesta 2 mil k")
    heard = ["ke", "kueta", "0", "mil", "ke"]
    twos = ["ke kueta", "kueta 0", "0 mil", "mil ke"]
    assert found.sounds == Counter(crc32(f"\x01{gram}".encode()) for gram in [*heard, *twos])
    pairs = ["0 ke", "0 kueta", "0 mil", "ke kueta", "ke mil", "kueta mil"]
    assert found.company == Counter(crc32(f"\x02{pair}".encode()) for pair in pairs)
    said = " ke kueta 0 mil ke "
    stretches = [said[a:b] for a in range(len(said)) for b in range(a + 3, a + 7) if b <= len(said)]
    assert found.stretches == Counter(crc32(f"\x03{part}".encode()) for part in stretches)


def test_spellings_of_one_sound_share_all_that_is_heard() -> None:
    one, other = features_of("¿Qué precio está pidiendo?"), features_of("¿k presio ta pidiendo?")
    assert one[2:] == other[2:]
    assert one[:2] != other[:2]


def test_company_does_not_depend_on_the_order_and_is_bounded() -> None:
    assert features_of("fotos del carro").company == features_of("carro del fotos").company
    assert len(features_of(" ".join(f"w{n}x" for n in range(100))).company) == 24 * 23 // 2


def test_hashes_are_the_same_in_every_process() -> None:
    # Written down, as fitted files hold them: another hash would make each of them worthless.
    assert sorted(features_of("sí").words.elements()) == [1906696502]
    assert sorted(features_of("sí").pieces.elements()) == [
        2639337179,
        2796027709,
        3465077465,
        3633337869,
        4054180150,
        4151340091,
    ]


def test_a_long_message_is_read_up_to_a_bound() -> None:
    begun = "x " * (MAX_CHARS // 2)
    assert features_of(begun + "hola") == features_of(begun)


@pytest.mark.parametrize("message", ["", " \n", "\ud800", "\x00"])
def test_nothing_is_unreadable(message: str) -> None:
    features_of(message)
