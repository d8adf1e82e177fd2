"""Declared feedback metrics, and whether a value fits one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from experiments.events.records import FeedbackDirection, FeedbackKind, FeedbackLevel

_MAX_EXACT = 2**53
"""Integers up to here are exact as a float, which is how they are stored."""


class Category(StrEnum):
    """What was wrong with an answer, or right: a closed set."""

    WRONG_INTENT = "wrong_intent"
    HALLUCINATION = "hallucination"
    INCOMPLETE = "incomplete"
    WRONG_LANGUAGE = "wrong_language"
    TOO_FORMAL = "too_formal"
    TOO_INFORMAL = "too_informal"
    PRIVACY_LEAK = "privacy_leak"
    WRONG_PRICE = "wrong_price"
    WRONG_VEHICLE_INFO = "wrong_vehicle_info"
    SLOW_RESPONSE = "slow_response"
    GOOD_RESPONSE = "good_response"
    OTHER = "other"


HALLUCINATIONS = frozenset(
    {Category.HALLUCINATION, Category.WRONG_PRICE, Category.WRONG_VEHICLE_INFO}
)
"""Categories that say the answer stated something untrue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """What a metric accepts, and which way is good."""

    name: str
    kind: FeedbackKind
    level: FeedbackLevel = "inference"
    direction: FeedbackDirection = "none"
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()


class Value(NamedTuple):
    """A checked value, as it is stored."""

    number: float | None
    text: str | None


class BadValue(ValueError):
    """The value does not fit the metric; the message says what does."""


THUMBS = MetricSpec(name="thumbs", kind="boolean", direction="increase")
RATING = MetricSpec(name="rating", kind="integer", direction="increase", minimum=1, maximum=5)
CATEGORY = MetricSpec(name="category", kind="category", categories=tuple(Category))
CORRECTION = MetricSpec(name="correction", kind="comment")

BUILT_IN: Mapping[str, MetricSpec] = {
    spec.name: spec for spec in (THUMBS, RATING, CATEGORY, CORRECTION)
}
"""Metrics that are always declared: the short form of feedback consists of them."""


def check_value(spec: MetricSpec, value: object, *, max_chars: int) -> Value:
    """Return the value as it is stored.

    Args:
        spec: The metric.
        value: What the client sent, parsed from JSON.
        max_chars: Longest comment.

    Raises:
        BadValue: If it has another type, is out of range, no category, empty or too long.
    """
    match spec.kind:
        case "boolean":
            if not isinstance(value, bool):
                raise BadValue(f"is {_show(value)}; {spec.name} takes true or false")
            return Value(float(value), None)
        case "integer" | "float":
            return Value(_number(spec, value), None)
        case "category":
            if not isinstance(value, str) or value not in spec.categories:
                known = ", ".join(spec.categories)
                raise BadValue(f"is {_show(value)}; {spec.name} takes one of: {known}")
            return Value(None, value)
        case "comment":
            return Value(None, _comment(spec, value, max_chars))


def _number(spec: MetricSpec, value: object) -> float:
    whole = spec.kind == "integer"
    fits = isinstance(value, int) if whole else isinstance(value, int | float)
    if not fits or isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue(f"is {_show(value)}; {spec.name} takes {_range(spec)}")
    # A comparison with NaN is false, so what is in range is also a number.
    low = -_MAX_EXACT if spec.minimum is None else spec.minimum
    high = _MAX_EXACT if spec.maximum is None else spec.maximum
    if not low <= value <= high or not math.isfinite(value):
        raise BadValue(f"is {_show(value)}; {spec.name} takes {_range(spec)}")
    return float(value)


def _range(spec: MetricSpec) -> str:
    noun = "a whole number" if spec.kind == "integer" else "a number"
    match spec.minimum, spec.maximum:
        case None, None:
            return noun
        case low, None:
            return f"{noun} of at least {low:g}"
        case None, high:
            return f"{noun} of at most {high:g}"
        case low, high:
            return f"{noun} from {low:g} to {high:g}"


def _comment(spec: MetricSpec, value: object, max_chars: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadValue(f"is {_show(value)}; {spec.name} takes a text that is not empty")
    if "\x00" in value:  # databases do not take it
        raise BadValue(f"contains the character 0; {spec.name} takes readable text")
    if len(value) > max_chars:
        raise BadValue(f"has {len(value)} characters; {spec.name} takes at most {max_chars}")
    return value


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
