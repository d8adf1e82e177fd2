"""What kinds of checkable statements a text makes: amounts, years, measures, codes.

An answer that invents something almost always invents one of these. Counting them in answers that
users called wrong, against answers that they praised, shows where a model makes things up.
"""

import re
from enum import StrEnum


class Claim(StrEnum):
    """A kind of statement that somebody can check."""

    AMOUNT = "amount"
    YEAR = "year"
    PERCENT = "percent"
    MEASURE = "measure"
    CODE = "code"
    TIME = "time"
    CONTACT = "contact"


_SIGNS = (
    (Claim.AMOUNT, r"(?:RD|US)?\$ ?\d|\d ?(?:mil|mill[oó]n|millones|pesos|d[oó]lares)\b"),
    (Claim.YEAR, r"\b(?:19[5-9]\d|20[0-4]\d)\b"),
    (Claim.PERCENT, r"\d ?%|\bpor ciento\b"),
    (Claim.MEASURE, r"\d ?(?:km|kil[oó]metros|millas|cc|hp|meses|a[nñ]os|d[ií]as)\b"),
    (Claim.CODE, r"\b[A-Z]{2,4}-\d{2,}\b"),
    (Claim.TIME, r"\b\d{1,2}:\d{2}\b|\b\d{1,2} ?[ap]\.? ?m\b"),
    (Claim.CONTACT, r"<(?:TEL|EMAIL)_\d+>"),
)
_PATTERNS = tuple((claim, re.compile(sign, re.IGNORECASE)) for claim, sign in _SIGNS)


def claims_in(text: str) -> frozenset[Claim]:
    """Return the kinds of claims that a text makes.

    Args:
        text: An answer without personal data.
    """
    return frozenset(claim for claim, pattern in _PATTERNS if pattern.search(text))
