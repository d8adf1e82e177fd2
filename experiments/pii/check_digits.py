"""Check digits of numbers that identify people and accounts. Arguments are ASCII digits."""

_RNC_WEIGHTS = (7, 9, 8, 6, 5, 4, 3, 2)
_CEDULA_DIGITS = 11
_RNC_DIGITS = 9


def luhn(digits: str) -> bool:
    """Return whether the last digit is the Luhn check digit of the others (cards, cédulas)."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def cedula(digits: str) -> bool:
    """Return whether eleven digits are a cédula with a right check digit.

    Hundreds of cédulas were issued with a wrong one, so a failure proves nothing.
    """
    return len(digits) == _CEDULA_DIGITS and luhn(digits)


def rnc(digits: str) -> bool:
    """Return whether nine digits are a Dominican taxpayer number with a right check digit."""
    if len(digits) != _RNC_DIGITS:
        return False
    total = sum(w * int(d) for w, d in zip(_RNC_WEIGHTS, digits, strict=False)) % 11
    return int(digits[-1]) == (10 - total) % 9 + 1


def iban(text: str) -> bool:
    """Return whether letters and digits without spaces are an IBAN (ISO 13616, modulo 97)."""
    rearranged = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in rearranged)) % 97 == 1
