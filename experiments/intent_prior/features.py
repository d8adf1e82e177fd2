"""What the classifier sees of a message, as hashes: what is written, and what it sounds like.

Of what is written, the same n-grams as scikit-learn's `TfidfVectorizer` makes of `word` (1 to 2)
and `char_wb` (2 to 5), so that a model that was fitted there can be scored here without it.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, pairwise
from typing import NamedTuple
from zlib import crc32

from experiments.intent_prior.sounds import sounds

MAX_CHARS = 1_000
"""What stands behind is not looked at: 20 times the usual message, and a bound on the time."""
_WORD = re.compile(r"\b\w+\b|[¿?!]")
_PIECE_LENGTHS = range(2, 6)
_PIECE_BIT = 1 << 31
"""Set in hashes of pieces and not in those of words, so that these two never meet."""
_SOUND, _COMPANY, _STRETCH = "\x01", "\x02", "\x03"
"""Begin what is hashed of the kinds that are heard; no word that is written begins so."""
_STRETCH_LENGTHS = range(3, 7)
_MAX_PAIRED = 24
"""So many different words are paired: their pairs grow with the square."""
_CACHED_CHARS = 24
"""Longer words come once; kept, they would be large."""
_CACHED_WORDS = 8192


class Features(NamedTuple):
    """How often each n-gram occurs, by its hash; a kind each. Files hold the first two or all."""

    words: Counter[int]
    """As they are written, single and in twos."""
    pieces: Counter[int]
    """Of words as they are written."""
    sounds: Counter[int]
    """Words as they sound, single and in twos."""
    company: Counter[int]
    """Any two words of the message as they sound, wherever they stand."""
    stretches: Counter[int]
    """Of the whole message as it sounds, across words too."""


def features_of(message: str) -> Features:
    """Return the n-grams of a message, without accents and in lower case."""
    text = _plain(message[:MAX_CHARS])
    words = _WORD.findall(text)
    pieces = chain.from_iterable(
        _kept_pieces(word) if len(word) <= _CACHED_CHARS else _pieces(word) for word in text.split()
    )
    heard = sounds(words)
    different = sorted(list(dict.fromkeys(heard))[:_MAX_PAIRED])
    return Features(
        words=Counter(_hash(gram) & ~_PIECE_BIT for gram in _ones_and_twos(words)),
        pieces=Counter(pieces),
        sounds=Counter(_hash(gram, _SOUND) for gram in _ones_and_twos(heard)),
        company=Counter(
            _hash(f"{first} {second}", _COMPANY) for first, second in combinations(different, 2)
        ),
        stretches=Counter(_hash(gram, _STRETCH) for gram in _stretches(heard)),
    )


def _plain(text: str) -> str:
    text = text.lower()
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _ones_and_twos(words: Sequence[str]) -> Iterator[str]:
    return chain(words, (f"{first} {second}" for first, second in pairwise(words)))


def _stretches(words: Sequence[str]) -> Iterator[str]:
    said = f" {' '.join(words)} "
    for length in _STRETCH_LENGTHS:
        for at in range(len(said) - length + 1):
            yield said[at : at + length]


def _pieces(word: str) -> tuple[int, ...]:
    # The word's borders are part of it; a word that is shorter than a length counts once, whole.
    padded = f" {word} "
    found: list[int] = []
    for length in _PIECE_LENGTHS:
        last = max(0, len(padded) - length)
        found += (_hash(padded[at : at + length]) | _PIECE_BIT for at in range(last + 1))
        if last == 0:
            break
    return tuple(found)


_kept_pieces = functools.lru_cache(maxsize=_CACHED_WORDS)(_pieces)


def _hash(gram: str, kind: str = "") -> int:
    # Lone surrogates cannot be encoded; all of them are one unknown sign.
    return crc32(f"{kind}{gram}".encode("utf-8", "replace"))
