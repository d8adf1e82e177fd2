"""Personal data by its shape: cédulas, telephones, cards, e-mail addresses."""

import re
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What kind of personal data."""

    CEDULA = "cedula"
    PHONE = "phone"
    CARD = "card"
    EMAIL = "email"


class PersonalDatum(NamedTuple):
    """One find."""

    kind: Kind
    text: str
    folded: str
    """Digits only, or the address in small letters: equal for equal data."""


_SHAPES = (
    (Kind.EMAIL, re.compile(r"[\w.+-]+\s?(?:@|\(arroba\)|\sarroba\s)\s?[\w-]+(?:\.[\w-]+)+", re.I)),
    (Kind.CARD, re.compile(r"(?<![\d-])\d(?:[ .-]?\d){12,18}(?![\d])")),
    (Kind.CEDULA, re.compile(r"(?<![\d-])\d{3}[ .-]?\d{7}[ .-]?\d(?![\d-])")),
    (
        Kind.PHONE,
        re.compile(
            r"(?<![\d-])(?:\+?1[ .-]?)?\(?(?:809|829|849)\)?[ .-]?\d{3}[ .-]?\d{4}(?![\d-])"
        ),
    ),
)
"""In the order of precedence: a stretch of text is one thing only.

A cédula has three, seven and one digits, so `001-1234567-8` is one although its check digit is
wrong: what is recognised is that somebody's number is being written, not that it exists.
"""


def personal_data_in(text: str) -> list[PersonalDatum]:
    """Return every find, each stretch of text once.

    Args:
        text: An answer or a message.
    """
    found: list[PersonalDatum] = []
    for kind, shape in _SHAPES:
        for match in shape.finditer(text):
            if kind is Kind.CARD and not _luhn(match.group()):
                continue
            found.append(PersonalDatum(kind, match.group(), _fold(match.group())))
        text = shape.sub(lambda m, kind=kind: _mask(m.group(), kind), text)  # type: ignore[misc]  # mypy cannot type a default
    return found


def _mask(text: str, kind: Kind) -> str:
    return text if kind is Kind.CARD and not _luhn(text) else "#" * len(text)


def _luhn(text: str) -> bool:
    digits = [int(character) for character in text if character.isdigit()][::-1]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0


def _fold(text: str) -> str:
    if "@" in text or "arroba" in text.lower():
        return re.sub(r"\s+|\(|\)", "", text.lower()).replace("arroba", "@")
    digits = re.sub(r"\D", "", text)
    return digits[1:] if len(digits) == 11 and digits[0] == "1" and digits[1] == "8" else digits
