"""A text as detectors read it: ASCII digits, one kind of dash and space, nothing invisible."""

import unicodedata
from typing import NamedTuple

_DASHES = frozenset("‐‑‒–—―−﹣－")


class PlainView(NamedTuple):
    """The readable form of a text, and where each of its characters came from."""

    text: str
    origin: tuple[int, ...] | None
    """Index in the original per character; None if they are the same."""

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Return where a non-empty stretch of the view lies in the original."""
        if self.origin is None:
            return start, end
        return self.origin[start], self.origin[end - 1] + 1


def plain_view(text: str) -> PlainView:
    """Return the view of a text.

    Full-width or Arabic digits, fancy dashes, no-break spaces and zero-width characters must not
    hide a number.
    """
    if text.isascii():
        return PlainView(text, None)
    chars: list[str] = []
    origin: list[int] = []
    for index, char in enumerate(text):
        plain = char if char.isascii() else _plain(char)
        if plain:
            chars.append(plain)
            origin.append(index)
    return PlainView("".join(chars), tuple(origin))


def _plain(char: str) -> str:
    if char in _DASHES:
        return "-"
    match unicodedata.category(char):
        case "Nd":
            return str(unicodedata.digit(char))
        case "Zs":
            return " "
        case "Cf":
            return ""
    if char == "＠":
        return "@"
    return char
