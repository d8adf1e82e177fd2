"""Amounts of money in Spanish text: `RD$1,450,000`, `1.2 millones`, `ochocientos mil pesos`."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Currency = Literal["DOP", "USD"]

_UNITS = {
    "cero": 0, "un": 1, "una": 1, "uno": 1, "dos": 2, "tres": 3, "cuatro": 4, "cinco": 5,
    "seis": 6, "siete": 7, "ocho": 8, "nueve": 9, "diez": 10, "once": 11, "doce": 12, "trece": 13,
    "catorce": 14, "quince": 15, "dieciséis": 16, "dieciseis": 16, "diecisiete": 17,
    "dieciocho": 18, "diecinueve": 19, "veinte": 20, "veintiuno": 21, "veintiún": 21,
    "veintidós": 22, "veintitrés": 23, "veinticuatro": 24, "veinticinco": 25, "veintiséis": 26,
    "veintisiete": 27, "veintiocho": 28, "veintinueve": 29, "treinta": 30, "cuarenta": 40,
    "cincuenta": 50, "sesenta": 60, "setenta": 70, "ochenta": 80, "noventa": 90, "cien": 100,
    "ciento": 100, "doscientos": 200, "trescientos": 300, "cuatrocientos": 400, "quinientos": 500,
    "seiscientos": 600, "setecientos": 700, "ochocientos": 800, "novecientos": 900,
}  # fmt: skip
_MILLION = r"millones|mill[oó]n|melones|mel[oó]n|palos|palo"
_WORD = "|".join(sorted(_UNITS, key=len, reverse=True))
_DIGITS = r"\d{1,3}(?:[,.]\d{3})+(?:[.,]\d{1,2}(?!\d))?|\d+(?:[.,]\d+)?"
_AMOUNT = re.compile(
    rf"(?P<before>rd\s?\$|us\s?\$|u\$s|usd|dop|\$)?\s*"
    rf"(?<![\w.,-])(?:(?P<digits>{_DIGITS})|(?P<half>medi[oa])|"
    rf"(?P<words>(?:{_WORD})(?:\s+(?:y\s+)?(?:{_WORD}))*|(?=mil\s+pesos|mill[oó]n\s+y\s+medio)))"
    rf"\s*(?P<scale>mil\b|k\b|m\b|(?:{_MILLION})\b)?"
    rf"(?P<tail>\s+y\s+medio\b|\s+(?:y\s+|con\s+)?(?:\d{{1,3}}|(?:{_WORD})(?:\s+(?:y\s+)?(?:{_WORD}))*)"
    rf"\s+mil\b)?"
    rf"(?P<after>\s*(?:de\s+)?(?:pesos|pesitos|d[oó]lares|rd\b|dop\b|us\b|usd\b|verdes))?"
    rf"(?P<other>\s*(?:millas|mi\b|km\b|kms\b|kil[oó]metros|cc\b|c\.c|litros|galones|hp\b|%|"
    rf"por\s+ciento|meses|mes\b|años|año\b|cuotas|d[ií]as|horas|am\b|pm\b|a\.m|p\.m))?",
    re.IGNORECASE,
)
_BARE_MINIMUM = 10_000
"""A number without currency is money from here on: `850,000` is, `2019` and `15` are not."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Money that a text speaks of."""

    value: int
    currency: Currency
    start: int
    end: int


def amounts_in(text: str) -> list[Amount]:
    """Return every amount of money, in order.

    A bare number counts as money when it is scaled (`800 mil`) or large and grouped or round, and
    no other unit follows it; distances, terms, percentages, telephones and years do not.

    Args:
        text: Spanish as people write it.
    """
    found = []
    for match in _AMOUNT.finditer(text):
        value = _value(match)
        if value is not None and _is_money(match, value, text):
            start = match.start() + len(match.group()) - len(match.group().lstrip())
            found.append(Amount(value, _currency(match), start, match.end()))
    return found


def _value(match: re.Match[str]) -> int | None:
    if match["digits"]:
        base = _number(match["digits"])
    elif match["half"]:
        base = Decimal("0.5")
    else:
        base = Decimal(_words(match["words"]))
    scale = _scale(match["scale"])
    if match["half"] and scale == 1:
        return None
    value = base * scale
    if match["tail"]:
        value += _tail(match["tail"].strip().lower(), scale)
    return int(value)


def _is_money(match: re.Match[str], value: int, text: str) -> bool:
    if match["other"] or value <= 0:
        return False
    if match["before"] or match["after"]:
        return True
    if match["scale"]:
        # A capital M or k after a digit is money; 'm' alone may be metres.
        return match["scale"].lower() != "m" or match["scale"] == "M"
    if not match["digits"] or value < _BARE_MINIMUM:
        return False
    beside = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
    if re.search(r"[-\d]", beside):
        return False
    return bool(re.search(r"[,.]", match["digits"])) or (value % 1000 == 0 and value < 10**8)


def _currency(match: re.Match[str]) -> Currency:
    near = f"{match['before'] or ''} {match['after'] or ''}".lower()
    return "USD" if re.search(r"us|u\$s|d[oó]lar|verdes", near) else "DOP"


def _number(digits: str) -> Decimal:
    if re.fullmatch(r"\d{1,3}(?:[,.]\d{3})+(?:[.,]\d{1,2})?", digits):
        whole = re.sub(r"[.,]\d{1,2}$", "", digits)
        return Decimal(re.sub(r"[,.]", "", whole))
    return Decimal(digits.replace(",", "."))


def _scale(word: str | None) -> int:
    match (word or "").lower():
        case "":
            return 1
        case "mil" | "k":
            return 1_000
        case _:
            return 1_000_000


def _tail(tail: str, scale: int) -> Decimal:
    if tail.endswith("medio"):
        return Decimal(scale) / 2
    if scale != 1_000_000:
        return Decimal(0)
    number = re.sub(r"^(y|con)\s+|\s+mil$", "", tail)
    base = Decimal(number) if number.isdigit() else Decimal(_words(number))
    return base * 1_000


def _words(text: str | None) -> int:
    words = (text or "").lower().split()
    return sum(_UNITS.get(word, 0) for word in words) or 1
