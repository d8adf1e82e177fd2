"""Reading the inventory block of a system message.

The documented form is a heading line and one line a vehicle, up to an empty line:

    Inventario:
    - OK-1042 | Toyota Hilux 2019 | RD$1,450,000 | 45,000 millas | Santiago | disponible

Commas may stand for the bars and the dashes may be missing. What cannot be read is left out, and
what is left out may not be said: a broken row makes answers silent about it, never wrong.
"""

import re
from typing import Literal, NamedTuple

from experiments.grounding.vehicles import Vehicle, split_name

Currency = Literal["DOP", "USD"]

MAX_ROWS = 100
"""Vehicles of a block; those behind them may not be spoken of."""
_MAX_LINE_CHARS = 300
_MAX_DETAIL_CHARS = 40
_HEADING = re.compile(r"^(?:inventario|veh[ií]culos)\b[^\n|]{0,60}:\s*$", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*\|\s*|,\s+")
_NAME = re.compile(r"(?P<name>[^\W\d][\w .&/-]{1,58}?)\s+(?P<year>(?:19|20)\d\d)")
_PRICE = re.compile(
    r"(?P<currency>RD\s?\$|US\s?\$|\$)\s?(?P<digits>\d{1,3}(?:,\d{3}){1,3}|\d{4,9})", re.IGNORECASE
)
_DISTANCE = re.compile(r"(?P<digits>\d{1,3}(?:,\d{3})*|\d{1,6})\s+(?P<unit>millas|km|kms)")
_DETAIL = re.compile(r"[^\W\d_](?:[^\W\d_]|[ '-])*")


class Row(NamedTuple):
    """One vehicle that may be spoken of."""

    vehicle: Vehicle
    year: int
    price: int
    currency: Currency
    distance: str = ""
    """Driven so far, as written: `45,000 millas`; empty where it is not told."""
    details: tuple[str, ...] = ()
    """Place, state and what else the row says in words."""


class Inventory(NamedTuple):
    """What a block says, and what stands around it."""

    rows: tuple[Row, ...]
    n_left_out: int
    """Lines of the block that are no readable row, or one too many."""
    around: str
    """The system message without the block."""


def read_inventory(system_message: str) -> Inventory | None:
    """Return the inventory of a system message, None if it has no block.

    A block that holds no readable row is an inventory without rows.

    Args:
        system_message: What the application wrote, not the customer.
    """
    lines = system_message.splitlines()
    start = next((i for i, line in enumerate(lines) if _HEADING.match(line.strip())), None)
    if start is None:
        return None
    end = start + 1
    while end < len(lines) and lines[end].strip():
        end += 1
    block = lines[start + 1 : end]
    rows = [row for line in block[:MAX_ROWS] if (row := _row(line)) is not None]
    return Inventory(tuple(rows), len(block) - len(rows), "\n".join(lines[:start] + lines[end:]))


def _row(line: str) -> Row | None:
    if len(line) > _MAX_LINE_CHARS:
        return None
    _, *fields = _SEPARATOR.split(line.strip().removeprefix("- "))
    if len(fields) < 2:
        return None
    name, price = _NAME.fullmatch(fields[0]), _PRICE.fullmatch(fields[1])
    if name is None or price is None:
        return None
    rest = fields[2:]
    distances = [field for field in rest if _DISTANCE.fullmatch(field)]
    return Row(
        vehicle=split_name(name["name"]),
        year=int(name["year"]),
        price=int(price["digits"].replace(",", "")),
        currency="USD" if price["currency"].lower().startswith("us") else "DOP",
        distance=distances[0] if distances else "",
        details=tuple(f for f in rest if len(f) <= _MAX_DETAIL_CHARS and _DETAIL.fullmatch(f)),
    )
