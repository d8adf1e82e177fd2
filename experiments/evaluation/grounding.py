"""Whether an answer speaks of prices, years and models that its prompt offers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from experiments.evaluation.amounts import Amount, amounts_in
from experiments.evaluation.items import InventoryRow, Item
from experiments.grounding.vehicles import known_vehicles

_YEAR = re.compile(r"(?<![\w$.,-])(?:19[89]\d|20[0-3]\d)(?![\w]|[.,-]\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a text says about vehicles."""

    prices: tuple[Amount, ...]
    years: frozenset[int]
    models: frozenset[str]
    """By their folded names: `crv` for CR-V."""

    def __bool__(self) -> bool:
        return bool(self.prices or self.years or self.models)


def claims_in(text: str, *, extra_models: Iterable[str] = ()) -> Claims:
    """Return prices, years and models that a text names.

    Args:
        text: An answer or a message.
        extra_models: Models besides those that are known, such as the inventory's.
    """
    prices = amounts_in(text)
    masked = list(text)
    for price in prices:
        masked[price.start : price.end] = " " * (price.end - price.start)
    rest = "".join(masked)
    models = dict(_known_models())
    for name in extra_models:
        models.setdefault(_fold(name), _pattern(name))
    named = {folded for folded, pattern in models.items() if pattern.search(rest)}
    return Claims(
        prices=tuple(prices),
        years=frozenset(int(year) for year in _YEAR.findall(rest)),
        models=frozenset(_longest(named)),
    )


def grounding_problems(item: Item, response: str) -> list[str]:
    """Return what the answer claims and its prompt does not offer, in words.

    Offered are the inventory and what the conversation says. Where the answer names vehicles of
    the inventory, a price must be one of those vehicles', or one that the customer named.

    Args:
        item: The question, with its inventory.
        response: The customer-visible text of the answer.
    """
    names = [row.model for row in item.inventory]
    claims = claims_in(response, extra_models=names)
    said = claims_in(_conversation(item), extra_models=names)
    offered_years = said.years | {row.year for row in item.inventory}
    offered_models = said.models | {_fold(name) for name in names}
    amounts = {(a.value, a.currency) for a in said.prices}
    amounts |= {(row.price_dop, "DOP") for row in _meant(item.inventory, claims)}
    return [
        *(f"price {a.value} {a.currency}" for a in claims.prices
          if (a.value, a.currency) not in amounts),
        *(f"year {year}" for year in sorted(claims.years - offered_years)),
        *(f"model {name}" for name in sorted(claims.models - offered_models)),
        *_wrong_pairs(item.inventory, claims, said),
    ]  # fmt: skip


def is_judged(item: Item, response: str) -> bool:
    """Return whether grounding is a question: there is inventory, or a claim in the answer."""
    return bool(item.inventory) or bool(claims_in(response))


def _conversation(item: Item) -> str:
    """Return what was said; a system message is left out where its rows are known as such."""
    heard = [m.content for m in item.messages if m.role != "system" or not item.inventory]
    return "\n".join(heard)


def _meant(rows: Sequence[InventoryRow], claims: Claims) -> list[InventoryRow]:
    """Return the vehicles that an answer is about; all where it names none of them."""
    named = [row for row in rows if _fold(row.model) in claims.models]
    dated = [row for row in named if row.year in claims.years]
    return dated or named or list(rows)


def _wrong_pairs(rows: Sequence[InventoryRow], claims: Claims, said: Claims) -> list[str]:
    """Return the year that no named vehicle has, where one model and one year are named."""
    if len(claims.models) != 1 or len(claims.years) != 1:
        return []
    years = {row.year for row in rows if _fold(row.model) in claims.models} | said.years
    (year,) = claims.years
    return [] if not years or year in years else [f"year {year} for that model"]


@cache
def _known_models() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (
            _fold(vehicle.model),
            # `Mira esa` names no Daihatsu.
            _pattern(f"{vehicle.make} {vehicle.model}" if vehicle.is_spoken else vehicle.model),
        )
        for vehicle in known_vehicles()
    )


def _pattern(name: str) -> re.Pattern[str]:
    # Capitals as written: 'Fit', 'Rio' and 'Note' are models, 'fit', 'rio' and 'note' words.
    # A name without letters ('208') is a model only after a capitalised word, its make.
    parts = [re.escape(part) for part in re.split(r"[\s-]+", name)]
    spelled = r"[\s-]?".join(parts)
    if name.isalpha() and len(name) > 6:
        return re.compile(rf"(?<!\w){spelled}(?!\w)", re.IGNORECASE)
    variants = {spelled, spelled.upper()}
    if not any(character.isdigit() or character == "-" for character in name):
        return re.compile(rf"(?<!\w)(?:{'|'.join(sorted(variants))})(?!\w)")
    if name.isdigit():
        return re.compile(rf"(?<=[A-Za-z]{{3}} ){spelled}(?!\w)")
    return re.compile(rf"(?<!\w){spelled}(?!\w)", re.IGNORECASE)


def _fold(name: str) -> str:
    return re.sub(r"[\s-]+", "", name).lower()


def _longest(names: set[str]) -> set[str]:
    """Drop names inside longer ones: a Grand Cherokee is no Cherokee as well."""
    return {name for name in names if not any(name != other and name in other for other in names)}
