"""Who an experiment is about: simple conditions on attributes that requests carry.

An attribute that is missing, or is no value of its type, fulfils no condition, negative ones
included: who is unknown is left out rather than guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import NamedTuple, assert_never

Value = str | float | bool

_YES = frozenset({"true", "1", "yes"})
_NO = frozenset({"false", "0", "no"})
_SHOWN_CHARS = 40


class AttributeType(StrEnum):
    """What an attribute's values are."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"


class Given(NamedTuple):
    """What a request says about itself."""

    headers: Mapping[str, str]
    """Case-insensitive, or with names in lower case."""
    metadata: Mapping[str, object]
    """The body's `metadata`."""


NOTHING_GIVEN = Given({}, {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Where an attribute is found, and what it is."""

    name: str
    type: AttributeType
    header: str | None = None
    """In lower case. Exactly one of `header` and `metadata` is given."""
    metadata: str | None = None

    def given_by(self, given: Given) -> object:
        """Return the value as the request has it; None if it has none."""
        if self.header is not None:
            return given.headers.get(self.header)
        return given.metadata.get(self.metadata or "")

    def value_of(self, given: Given) -> Value | None:
        """Return the value; None if the request has none, or none of the type."""
        raw = self.given_by(given)
        match self.type:
            case AttributeType.TEXT:
                return raw if isinstance(raw, str) and raw else None
            case AttributeType.NUMBER:
                return _number(raw)
            case AttributeType.BOOLEAN:
                return _boolean(raw)
        assert_never(self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What must hold for an attribute. Several parts must all hold."""

    attribute: Attribute
    equals: Value | None = None
    any_of: frozenset[Value] | None = None
    none_of: frozenset[Value] | None = None
    at_least: float | None = None
    at_most: float | None = None

    def holds_for(self, given: Given) -> bool:
        """Return whether a request fulfils it."""
        value = self.attribute.value_of(given)
        if value is None:
            return False
        if self.equals is not None and value != self.equals:
            return False
        if self.any_of is not None and value not in self.any_of:
            return False
        if self.none_of is not None and value in self.none_of:
            return False
        if isinstance(value, str):
            return True
        if self.at_least is not None and value < self.at_least:
            return False
        return self.at_most is None or value <= self.at_most

    def why_not(self, given: Given) -> str:
        """Say what keeps a request out, which does not fulfil it."""
        attribute = self.attribute
        raw = attribute.given_by(given)
        if raw is None or raw == "":
            return f"{attribute.name} is missing"
        shown = repr(raw)
        if len(shown) > _SHOWN_CHARS:
            shown = shown[: _SHOWN_CHARS - 3] + "..."
        if attribute.value_of(given) is None:
            return f"{attribute.name} is {shown}, no {attribute.type.value}"
        return f"{attribute.name} is {shown}, not {self}"

    def __str__(self) -> str:
        """Return the condition in words."""
        parts = []
        if self.equals is not None:
            parts.append(f"{self.equals!r}")
        if self.any_of is not None:
            parts.append(f"one of {_listed(self.any_of)}")
        if self.none_of is not None:
            parts.append(f"other than {_listed(self.none_of)}")
        if self.at_least is not None:
            parts.append(f"at least {self.at_least:g}")
        if self.at_most is not None:
            parts.append(f"at most {self.at_most:g}")
        return " and ".join(parts)


def _number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        return None
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        return None
    return value if isfinite(value) else None


def _boolean(raw: object) -> bool | None:
    if isinstance(raw, bool):
        return raw
    word = raw.strip().lower() if isinstance(raw, str) else None
    return True if word in _YES else False if word in _NO else None


def _listed(values: frozenset[Value]) -> str:
    return ", ".join(sorted(repr(value) for value in values))
