"""Grammar expressions for the decimal digits of numbers between two bounds."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from serve_app.engines.schema.limits import MAX_MAGNITUDE
from serve_app.engines.schema.nodes import Integer, Number


def integer_expression(node: Integer) -> str:
    """Return an expression that matches exactly the integers of a node.

    A missing bound is 10^15 in size.
    """
    low = -MAX_MAGNITUDE if node.minimum is None else node.minimum
    high = MAX_MAGNITUDE if node.maximum is None else node.maximum
    options = []
    if low < 0:
        options.append('"-" ' + _group(_naturals(max(1, -high), -low)))
    if high >= 0:
        options.append(_group(_naturals(max(0, low), high)))
    return _group(options)


def number_expression(node: Number) -> str:
    """Return an expression that matches decimals of a node, with up to `node.decimals` digits.

    Every match lies within the bounds. Near a bound that is not whole, the fraction is written with
    all its digits.
    """
    scale = 10**node.decimals
    limit = Decimal(MAX_MAGNITUDE)
    low = -limit if node.minimum is None else node.minimum
    high = limit if node.maximum is None else node.maximum
    first = int((low * scale).to_integral_value(rounding=ROUND_CEILING))
    last = int((high * scale).to_integral_value(rounding=ROUND_FLOOR))
    options = []
    if first < 0:
        options.append('"-" ' + _group(_decimals(max(1, -last), -first, node.decimals)))
    if last >= 0:
        options.append(_group(_decimals(max(0, first), last, node.decimals)))
    return _group(options)


def _decimals(first: int, last: int, n: int) -> list[str]:
    # Magnitudes first/10^n .. last/10^n, both >= 0.
    scale = 10**n
    whole_first, fraction_first = divmod(first, scale)
    whole_last, fraction_last = divmod(last, scale)
    if whole_first == whole_last and (fraction_first, fraction_last) != (0, 0):
        return [
            f'"{whole_first}." ' + _group(_fixed(_pad(fraction_first, n), _pad(fraction_last, n)))
        ]
    options = []
    if fraction_first:
        options.append(f'"{whole_first}." ' + _group(_fixed(_pad(fraction_first, n), "9" * n)))
        whole_first += 1
    if whole_first < whole_last:
        whole = _group(_naturals(whole_first, whole_last - 1))
        options.append(f'{whole} ("." [0-9]{{1,{n}}})?')
    if fraction_last:
        fraction = _group(_fixed("0" * n, _pad(fraction_last, n)))
        options.append(f'"{whole_last}" ("." {fraction})?')
    else:
        options.append(f'"{whole_last}" ("." "0"{{1,{n}}})?')
    return options


def _naturals(low: int, high: int) -> list[str]:
    options = []
    n_low, n_high = len(str(low)), len(str(high))
    for n in range(n_low, n_high + 1):
        first = str(low) if n == n_low else "1" + "0" * (n - 1)
        last = str(high) if n == n_high else "9" * n
        options += _fixed(first, last)
    return options


def _fixed(low: str, high: str) -> list[str]:
    # Digit strings of one length, from `low` to `high`.
    if not low:
        return ['""']
    rest = len(low) - 1
    if low[0] == high[0]:
        return [_join(f'"{low[0]}"', _fixed(low[1:], high[1:]))]
    options = []
    first, last = int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        options.append(_join(f'"{first}"', _fixed(low[1:], "9" * rest)))
        first += 1
    high_is_full = high[1:] == "9" * rest
    if not high_is_full:
        last -= 1
    if first <= last:
        digits = f"[0-9]{{{rest}}}" if rest else ""
        options.append(f"[{first}-{last}] {digits}".strip())
    if not high_is_full:
        options.append(_join(f'"{last + 1}"', _fixed("0" * rest, high[1:])))
    return options


def _join(head: str, tails: list[str]) -> str:
    return head if tails == ['""'] else f"{head} {_group(tails)}"


def _pad(value: int, n: int) -> str:
    return str(value).rjust(n, "0")


def _group(options: list[str]) -> str:
    return options[0] if len(options) == 1 else "(" + " | ".join(options) + ")"
