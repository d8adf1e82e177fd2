"""The labels that a JSON answer gives itself: what it takes the user to want, and how sure it is.

Only a short label in small letters is taken, never a sentence: labels are stored and counted, and
what a user said must not get there.
"""

import re
from typing import NamedTuple

import orjson

_LABEL = re.compile(r"[a-z][a-z0-9_]{0,47}")
_MAX_CHARS = 20_000
"""Answers longer than this are not parsed; the gateway has other things to do."""


class AnswerLabels(NamedTuple):
    """Labels; None for what an answer does not say."""

    intent: str | None = None
    confidence: float | None = None


def labels_of(answer: str) -> AnswerLabels:
    """Return the labels of an answer; an answer that is no JSON object has none."""
    if not answer.startswith("{") or len(answer) > _MAX_CHARS:
        return AnswerLabels()
    try:
        parsed = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return AnswerLabels()
    if not isinstance(parsed, dict):
        return AnswerLabels()
    return AnswerLabels(_label(parsed.get("intent")), _share(parsed.get("confidence")))


def _label(value: object) -> str | None:
    return value if isinstance(value, str) and _LABEL.fullmatch(value) else None


def _share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None
