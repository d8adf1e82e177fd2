"""How a message sounds to a Dominican ear, so that its many spellings are one.

`pq ta tan kara`, `porque está tan cara`: what is dropped or swapped in speech and on WhatsApp is
dropped or swapped in both. The result is no spelling; it only is the same for the same words.
"""

import functools
import re
from collections.abc import Sequence

NUMBER = "0"
"""Stands for all figures in a row: `450,000` and `1.2` ask for the same things."""
_WHOLE = {
    "d": "de",
    "dnd": "donde",
    "e": "es",
    "k": "que",
    "na": "nada",
    "pa": "para",
    "po": "por",
    "pq": "porque",
    "q": "que",
    "ta": "esta",
    "taba": "estaba",
    "tamo": "estamos",
    "tamos": "estamos",
    "tas": "estas",
    "tb": "tambien",
    "tbn": "tambien",
    "tmb": "tambien",
    "to": "todo",
    "toa": "toda",
    "toas": "todas",
    "tos": "todos",
    "toy": "estoy",
    "x": "por",
    "xq": "porque",
}
"""Clipped words -> the words."""
_CHANGES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"ll", "y"),
        (r"(.)\1+", r"\1"),
        (r"qu(?=[ei])", "k"),
        (r"(?<!c)h", ""),
        (r"c(?=[ei])", "s"),
        (r"c(?!h)|q", "k"),
        (r"z|x", "s"),
        (r"v", "b"),
        (r"g(?=[ei])", "j"),
        (r"(?<=[aeiou])[lr](?=[bcdfgjkmnpsty]|$)", "l"),
        (r"(?<=..)[sd]+$", ""),
        (r"(?<=[aeiou])s(?=[bcdfgjklmnpt])", ""),
        (r"ado$", "ao"),
        (r"ada$", "a"),
        (r"(.)\1+", r"\1"),
    )
)
"""One after the other: letters of one sound; l for r where a syllable ends, s and d lost there."""
_CACHED_CHARS = 24
"""Longer words come once; kept, they would be large."""
_CACHED_WORDS = 8192


def sounds(words: Sequence[str]) -> list[str]:
    """Return what each word sounds like, and one sign for any figures in a row.

    Args:
        words: In lower case and without accents.
    """
    found: list[str] = []
    for word in words:
        if word[0].isdigit():
            if not found or found[-1] != NUMBER:
                found.append(NUMBER)
        else:
            found.append(_kept_sound(word) if len(word) <= _CACHED_CHARS else _sound(word))
    return found


def _sound(word: str) -> str:
    sound = _WHOLE.get(word, word)
    for pattern, replacement in _CHANGES:
        sound = pattern.sub(replacement, sound)
    return sound or word


_kept_sound = functools.lru_cache(maxsize=_CACHED_WORDS)(_sound)
