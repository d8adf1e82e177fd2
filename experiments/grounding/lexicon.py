"""What an answer is watched for: words that are always the same, an inventory, a conversation."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from experiments.grounding.inventory import Currency, Inventory, Row
from experiments.grounding.terms import Kind, Node, Term, groupings, trie
from experiments.grounding.vehicles import (
    Vehicle,
    is_unmistakable,
    known_makes,
    known_vehicles,
    spellings,
)

_WORDS: dict[Kind, tuple[str, ...]] = {
    Kind.DISTANCE_UNIT: ("millas", "km", "kms", "kilómetros", "kilometros"),
    Kind.PESOS: ("pesos", "pesitos", "rd", "dop"),
    Kind.DOLLARS: ("dólares", "dolares", "us", "usd", "verdes"),
    Kind.SCALE: ("mil", "millón", "millon", "millones", "melón", "melones"),
    Kind.SCALE_BEHIND: ("palo", "palos", "k", "m"),
    Kind.WHERE: ("en",),
    Kind.NUMERAL: (
        "un", "una", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve",
        "diez", "once", "doce", "trece", "catorce", "quince", "veinte", "veinticinco", "treinta",
        "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa", "cien", "ciento",
        "doscientos", "trescientos", "cuatrocientos", "quinientos", "seiscientos", "setecientos",
        "ochocientos", "novecientos", "medio", "media",
    ),
}  # fmt: skip
_FIGURE = re.compile(
    r"(?P<currency>rd\s?\$|us\s?\$|\$)?\s?(?<![\w.,])(?P<text>\d[\w.,:/-]*%?)", re.IGNORECASE
)
_MAX_SAID_CHARS = 20_000
_MAX_SAID = 64
"""Figures of customer and prompt that may be repeated."""
_PHONE_DIGITS = 7
"""So many digits in a row of the customer's may be a telephone or an identity card."""
_SMALL = 1000
_PERIODS = ("meses", "mes", "años", "año", "cuotas", "días", "horas", "minutos")
"""What small numbers may count that are in no row: a term of payment, a wait."""


class Offer(NamedTuple):
    """An inventory as tries; made once and shared by all requests with the same block."""

    everything: int
    """All vehicles, one bit each."""
    names: tuple[Node, ...]
    """Models, makes, details."""
    years: Node
    prices: dict[Currency, Node]
    """Behind a sign or code of the currency. Without one, a number is no price."""
    distances: Node


class Said(NamedTuple):
    """What customer and prompt have said, and an answer may therefore repeat."""

    names: Node
    anywhere: Node
    """Small numbers of the prompt: an hour, a rate."""
    early: dict[Currency, Node]
    """All others, before a vehicle is named, lest they pass for its own."""


@cache
def words() -> tuple[Node, ...]:
    """Return what is watched for in every answer."""
    common = Node(Kind.SCALE, folded=True)
    for kind, texts in _WORDS.items():
        for text in texts:
            common.add(text, Term(kind))
    foreign = Term(Kind.FOREIGN)
    free: list[tuple[str, Term]] = []
    exact: list[tuple[str, Term]] = []
    for name in _names(known_vehicles()):
        if is_unmistakable(name):
            free += [(text, foreign) for text in spellings(name)]
        else:
            exact += [(text, foreign) for text in (*spellings(name), *spellings(name.upper()))]
    return (common, trie(Kind.FOREIGN, free), trie(Kind.FOREIGN, exact, folded=False))


@cache
def periods() -> Node:
    """Return the small numbers that count months and other periods."""
    term = Term(Kind.SAID_FIGURE)
    texts = (f"{number} {unit}" for number in range(1, 100) for unit in _PERIODS)
    return trie(Kind.SAID_FIGURE, ((text, term) for text in texts), folded=False)


def offer(inventory: Inventory) -> Offer:
    """Return the tries of an inventory."""
    rows = [(row, 1 << place) for place, row in enumerate(inventory.rows)]
    return Offer(
        everything=(1 << len(rows)) - 1,
        names=(
            trie(Kind.MODEL, (term for row, bit in rows for term in _models(row, bit))),
            trie(
                Kind.MAKE,
                (
                    (text, Term(Kind.MAKE, bit))
                    for row, bit in rows
                    for text in spellings(row.vehicle.make)
                ),
            ),
            trie(
                Kind.DETAIL,
                ((text, Term(Kind.DETAIL, bit)) for row, bit in rows for text in row.details),
            ),
        ),
        years=_figures(Kind.YEAR, ((str(row.year), Term(Kind.YEAR, bit)) for row, bit in rows)),
        prices={
            "DOP": _figures(Kind.PRICE, _prices(rows, "DOP")),
            "USD": _figures(Kind.PRICE, _prices(rows, "USD")),
        },
        distances=_figures(
            Kind.DISTANCE, (term for row, bit in rows for term in _distances(row, bit))
        ),
    )


def said(customer: Iterable[str], prompt: str) -> Said:
    """Return what may be repeated.

    Args:
        customer: The customer's messages, not the assistant's: what it invented once stays wrong.
        prompt: The system message around the inventory block.
    """
    theirs = "\n".join(customer)[-_MAX_SAID_CHARS:]
    term = Term(Kind.SAID_FIGURE)
    found = Said(
        names=trie(Kind.SAID_NAME, _said_names(theirs)),
        anywhere=Node(Kind.SAID_FIGURE, folded=False),
        early={
            "DOP": Node(Kind.SAID_FIGURE, folded=False),
            "USD": Node(Kind.SAID_FIGURE, folded=False),
        },
    )
    own = [(match, False) for match in _FIGURE.finditer(prompt[-_MAX_SAID_CHARS:])]
    for match, is_theirs in [*own, *((match, True) for match in _FIGURE.finditer(theirs))][
        -_MAX_SAID:
    ]:
        text = match["text"].rstrip(".,:/-")
        digits = re.sub(r"\D", "", text)
        currency = match["currency"]
        if currency:
            found.early["USD" if currency.lower().startswith("us") else "DOP"].add(text, term)
        elif is_theirs and len(digits) >= _PHONE_DIGITS:
            continue
        elif int(digits) < _SMALL and not is_theirs:
            found.anywhere.add(text, term)
        else:
            found.early["DOP"].add(text, term)
    return found


def _figures(kind: Kind, terms: Iterable[tuple[str, Term]]) -> Node:
    return trie(kind, terms, folded=False)


def _names(vehicles: Iterable[Vehicle]) -> Iterator[str]:
    """Yield what names a vehicle that nobody has spoken of; figures are watched for as such."""
    for vehicle in vehicles:
        name = f"{vehicle.make} {vehicle.model}" if vehicle.is_spoken else vehicle.model
        if not name[0].isdigit():
            yield name
    yield from known_makes()


def _said_names(text: str) -> Iterator[tuple[str, Term]]:
    lowered = text.lower()
    index = _by_first_word()
    for word in set(re.findall(r"\w+", lowered)) & index.keys():
        for variants in index[word]:
            if any(re.search(rf"(?<!\w){re.escape(v)}(?!\w)", lowered) for v in variants):
                yield from ((variant, Term(Kind.SAID_NAME)) for variant in variants)


@cache
def _by_first_word() -> dict[str, set[tuple[str, ...]]]:
    """Return the spellings of makes and models, under the first word of each."""
    index: dict[str, set[tuple[str, ...]]] = {}
    for vehicle in known_vehicles():
        for name in vehicle:
            variants = tuple(spellings(name.lower()))
            for variant in variants:
                index.setdefault(re.split(r"[ -]", variant)[0], set()).add(variants)
    return index


def _models(row: Row, bit: int) -> Iterator[tuple[str, Term]]:
    model = row.vehicle.model
    name = f"{row.vehicle.make} {model}" if row.vehicle.is_spoken else model
    return ((text, Term(Kind.MODEL, bit)) for text in spellings(name))


def _prices(rows: list[tuple[Row, int]], currency: Currency) -> Iterator[tuple[str, Term]]:
    for row, bit in rows:
        if row.currency == currency:
            yield from ((text, Term(Kind.PRICE, bit)) for text in groupings(row.price))


def _distances(row: Row, bit: int) -> Iterator[tuple[str, Term]]:
    digits, _, unit = row.distance.partition(" ")
    if unit:
        number = int(digits.replace(",", ""))
        yield from ((f"{text} {unit}", Term(Kind.DISTANCE, bit)) for text in groupings(number))
