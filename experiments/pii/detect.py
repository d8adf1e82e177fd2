"""Finding personal data: by shape first, by check digit or a word nearby where shape is not enough.

A wrong check digit never saves a number that has the shape of an identity: people mistype, and
hundreds of cédulas were issued with a wrong digit. A bare run of digits needs more: the check
digit (which one in ten random numbers passes), or a word that says what it is.
"""

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from experiments.pii import check_digits
from experiments.pii.plain_view import plain_view

_CONTEXT_CHARS = 40
"""How far before a number a word that explains it may stand."""


class Kind(StrEnum):
    """Kind of personal data; the value is the word in its placeholder."""

    EMAIL = "EMAIL"
    IBAN = "IBAN"
    CARD = "TARJETA"
    CEDULA = "CEDULA"
    PHONE = "TEL"
    RNC = "RNC"


class Span(NamedTuple):
    """Personal data at `text[start:end]`."""

    start: int
    end: int
    kind: Kind
    value: str
    """What identifies it, without separators: two spellings of a number have one value."""


def find(text: str) -> list[Span]:
    """Return the personal data in a text, in order, without overlaps.

    Time is linear in the length of the text.
    """
    view = plain_view(text)
    taken = bytearray(len(view.text))
    found = []
    for detector in _DETECTORS:
        for start, end, value in detector.matches(view.text):
            if any(taken[start:end]):
                continue
            taken[start:end] = b"\x01" * (end - start)
            found.append(Span(*view.original_span(start, end), detector.kind, value))
    return sorted(found)


_Check = Callable[[re.Match[str]], int]
"""Returns how many characters of a match are the data; 0 if it is none."""


class _Detector(NamedTuple):
    kind: Kind
    pattern: re.Pattern[str]
    accept: _Check

    def matches(self, text: str) -> Iterator[tuple[int, int, str]]:
        for match in self.pattern.finditer(text):
            length = self.accept(match)
            if length:
                raw = match[0][:length]
                yield match.start(), match.start() + length, _value(self.kind, raw)


def _value(kind: Kind, raw: str) -> str:
    if kind is Kind.EMAIL:
        return raw.lower()
    compact = re.sub(r"[^0-9A-Za-z]", "", raw).upper()
    if kind is Kind.PHONE and len(compact) == 11:
        return compact.removeprefix("1")
    return compact


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _shape(match: re.Match[str]) -> int:
    return len(match[0])


def _near(words: str) -> Callable[[re.Match[str]], bool]:
    """Return a check for one of the words shortly before a match."""
    pattern = re.compile(words, re.IGNORECASE)

    def check(match: re.Match[str]) -> bool:
        return bool(
            pattern.search(match.string, max(0, match.start() - _CONTEXT_CHARS), match.start())
        )

    return check


_says_cedula = _near(r"c[eé]dula|\bced\b|identificaci[oó]n|identidad|documento")
_says_phone = _near(
    r"\btel|\bcel|whats?app|\bwsp|\bwasap|llam|ll[aá]m|contact|n[uú]mero|\bn[uú]m\b"
)
_says_rnc = _near(r"\brnc\b")


def _card(match: re.Match[str]) -> int:
    digits = _digits(match[0])
    return len(match[0]) if digits[0] in "3456" and check_digits.luhn(digits) else 0


def _bare_cedula(match: re.Match[str]) -> int:
    return len(match[0]) if check_digits.cedula(match[0]) or _says_cedula(match) else 0


def _bare_rnc(match: re.Match[str]) -> int:
    return len(match[0]) if _says_rnc(match) else 0


def _bare_phone(match: re.Match[str]) -> int:
    return len(match[0]) if _says_phone(match) else 0


def _foreign_phone(match: re.Match[str]) -> int:
    return len(match[0]) if 8 <= len(_digits(match[0])) <= 15 else 0


def _iban(match: re.Match[str]) -> int:
    """Accept the longest part, cut at a separator, whose check digits are right."""
    text = match[0]
    while len(text) >= 15:
        if check_digits.iban(re.sub(r"[ -]", "", text)):
            return len(text)
        text = text[: max(text.rfind(" "), text.rfind("-"), 0)]
    return 0


_BEFORE = r"(?<![\w$])"
_AFTER = r"(?!\w)"
_DO = r"(?:809|829|849)"
_SEP = r"[-. ]"


def _compiled(core: str) -> re.Pattern[str]:
    return re.compile(_BEFORE + core + _AFTER, re.IGNORECASE)


_DETECTORS = (
    # Possessive quantifiers and the look-behind keep a long run without an @ from being read twice.
    _Detector(
        Kind.EMAIL,
        re.compile(r"(?<![\w.%+-])[\w.%+-]++@[\w-]++(?:\.[\w-]++)++"),
        _shape,
    ),
    _Detector(
        Kind.EMAIL,
        re.compile(
            r"(?<![\w.+-])[\w.+-]++ ?(?:\(at\)|\[at\]|arroba) ?[\w-]++"
            r"(?: ?(?:\.| punto ) ?[a-z]{2,}+){1,3}",
            re.IGNORECASE,
        ),
        _shape,
    ),
    _Detector(Kind.IBAN, _compiled(r"DO\d{2}(?:[ -]?[A-Z0-9]){4}(?:[ -]?\d){20}"), _shape),
    _Detector(
        Kind.IBAN,
        _compiled(r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?"),
        _iban,
    ),
    _Detector(Kind.CARD, _compiled(r"[3-6]\d{3}([ .-])\d{4}\1\d{4}\1\d{1,7}"), _shape),
    _Detector(Kind.CARD, _compiled(r"3[47]\d{2}([ .-])\d{6}\1\d{5}"), _shape),
    _Detector(Kind.CARD, _compiled(r"\d(?:[ -]?\d){12,18}"), _card),
    _Detector(Kind.CEDULA, _compiled(rf"\d{{3}}{_SEP}\d{{7}}{_SEP}\d"), _shape),
    _Detector(
        Kind.PHONE,
        _compiled(rf"(?:\+?1{_SEP}?)?(?:\({_DO}\)|{_DO}){_SEP}?\d{{3}}{_SEP}?\d{{4}}"),
        _shape,
    ),
    _Detector(
        Kind.PHONE,
        _compiled(rf"(?:\+?1{_SEP}?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d{_SEP})\d{{3}}{_SEP}\d{{4}}"),
        _shape,
    ),
    _Detector(
        Kind.PHONE,
        re.compile(rf"(?<![\w+])\+\d{{1,3}}(?:{_SEP}?(?:\(\d{{1,4}}\)|\d{{1,4}})){{2,5}}{_AFTER}"),
        _foreign_phone,
    ),
    _Detector(Kind.CEDULA, _compiled(r"\d{11}"), _bare_cedula),
    _Detector(Kind.RNC, _compiled(r"\d-\d{2}-\d{5}-\d"), _shape),
    _Detector(Kind.RNC, _compiled(r"\d{9}"), _bare_rnc),
    _Detector(Kind.PHONE, _compiled(rf"(?:\d{{3}}{_SEP}?)?\d{{3}}{_SEP}?\d{{4}}"), _bare_phone),
)
"""In the order in which they may claim characters."""
