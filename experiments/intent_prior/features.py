"""What the classifier sees of a message: words, pairs of words and pieces of words, as hashes.

The same n-grams as scikit-learn's `TfidfVectorizer` makes of `word` (1 to 2) and `char_wb` (2 to
5), so that a model that was fitted there can be scored here without it.
"""

import functools
import re
import unicodedata
from collections import Counter
from itertools import chain, pairwise
from typing import NamedTuple
from zlib import crc32

MAX_CHARS = 1_000
"""What stands behind is not looked at: 20 times the usual message, and a bound on the time."""
_WORD = re.compile(r"\b\w+\b|[¿?!]")
_PIECE_LENGTHS = range(2, 6)
_PIECE_BIT = 1 << 31
"""Set in hashes of pieces only, so that the two kinds never meet."""
_CACHED_CHARS = 24
"""Longer words come once; kept, they would be large."""
_CACHED_WORDS = 8192


class Features(NamedTuple):
    """How often each n-gram occurs, by its hash; a kind each."""

    words: Counter[int]
    pieces: Counter[int]


def features_of(message: str) -> Features:
    """Return the n-grams of a message, without accents and in lower case."""
    text = _plain(message[:MAX_CHARS])
    words = _WORD.findall(text)
    grams = chain(words, (f"{first} {second}" for first, second in pairwise(words)))
    pieces = chain.from_iterable(
        _kept_pieces(word) if len(word) <= _CACHED_CHARS else _pieces(word) for word in text.split()
    )
    return Features(Counter(_hash(gram) & ~_PIECE_BIT for gram in grams), Counter(pieces))


def _plain(text: str) -> str:
    text = text.lower()
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


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


def _hash(gram: str) -> int:
    # Lone surrogates cannot be encoded; all of them are one unknown sign.
    return crc32(gram.encode("utf-8", "replace"))
