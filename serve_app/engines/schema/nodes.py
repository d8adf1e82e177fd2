"""What a schema in the subset means: a tree of plain values, with shared parts shared."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A string of so many code points; None is no bound."""

    min_length: int = 0
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """A whole number, bounds included."""

    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A decimal number, bounds included."""

    minimum: Decimal | None = None
    maximum: Decimal | None = None
    decimals: int = 6
    """Digits after the point at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of some scalars, given as compact JSON texts."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One key of an object."""

    name: str
    value: "Node"
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object with just these keys, in this order."""

    properties: tuple[Property, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A list; None is no bound."""

    items: "Node"
    min_items: int = 0
    max_items: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """One of several."""

    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyObject:
    """Any JSON object of bounded depth."""


Node = Text | Integer | Number | Choice | Object | Array | AnyOf | AnyObject
