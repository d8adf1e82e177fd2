"""The probabilities of all intents at the place where an answer names one.

They are read from the likeliest candidates for its tokens (`top_logprobs` of the OpenAI API), which
a server and a file give alike, so no intent needs a pass of its own.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

N_CANDIDATES = 20
"""Candidates for a token that are looked at: as many as the OpenAI API gives."""
_INTENT_VALUE = re.compile(rb'"intent"\s*:\s*"([^"\\]*)"')
_INTENT_START = re.compile(rb'"intent"\s*:\s*"([^"\\]*)("?)')


class Candidate(NamedTuple):
    """A token that could have come."""

    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of an answer."""

    piece: bytes
    logprob: float
    top: tuple[Candidate, ...] = ()
    """The likeliest at its place, itself perhaps among them."""


class _Place(NamedTuple):
    """A token that reaches into the value of the intent."""

    token: ScoredToken
    before: bytes
    """The answer up to it."""


def named_intent(tokens: Sequence[ScoredToken]) -> str | None:
    """Return the intent that an answer names, None if it names none."""
    match = _INTENT_VALUE.search(b"".join(token.piece for token in tokens))
    return match.group(1).decode(errors="replace") if match and match.group(1) else None


def intent_probability(tokens: Sequence[ScoredToken]) -> float | None:
    """Return the probability of the intent in an answer, given what stands before it.

    The product over the tokens that reach into the value between the quotes. None if the answer
    has no intent.

    Args:
        tokens: All tokens of the answer in order.
    """
    places = _places(tokens)
    if not places:
        return None
    total = sum(place.token.logprob for place in places)
    return None if math.isnan(total) else min(1.0, math.exp(total))


def intent_probabilities(
    tokens: Sequence[ScoredToken], labels: Collection[str]
) -> dict[str, float] | None:
    """Return the probability of every intent that can be told; together they are 1.

    A candidate counts for the one label that it can become. Where it could become several, only
    the way that the answer took is followed. Labels below the last candidate are left out.

    Args:
        tokens: All tokens of the answer in order.
        labels: The intents that exist.

    Returns:
        None if the answer has no such intent, or its tokens came without candidates.
    """
    names = [label.encode() for label in labels]
    found: dict[bytes, list[float]] = {}
    path = 0.0
    for token, before in _places(tokens, closed=True):
        if not token.top:
            return None
        for piece, logprob in token.top:
            if piece != token.piece and (label := _only_label(before + piece, names)) is not None:
                found.setdefault(label, []).append(path + logprob)
        path += token.logprob
        if (label := _only_label(before + token.piece, names)) is not None:
            found.setdefault(label, []).append(path)
            return _shares(found)
    return None


def _places(tokens: Sequence[ScoredToken], *, closed: bool = False) -> list[_Place]:
    """Return the tokens that reach into the value; with the quote after it, if `closed`."""
    text = b"".join(token.piece for token in tokens)
    match = _INTENT_VALUE.search(text)
    if match is None or match.start(1) == match.end(1):
        return []
    places, start = [], 0
    value_end = match.end() if closed else match.end(1)
    for token in tokens:
        end = start + len(token.piece)
        if start < value_end and end > match.start(1):
            places.append(_Place(token, text[:start]))
        start = end
    return places


def _only_label(text: bytes, names: Collection[bytes]) -> bytes | None:
    """Return the label that an answer with this beginning must have, if there is just one."""
    match = _INTENT_START.search(text)
    if match is None:
        return None
    begun, closed = match.group(1), bool(match.group(2))
    possible = [name for name in names if name == begun or (not closed and name.startswith(begun))]
    return possible[0] if len(possible) == 1 else None


def _shares(found: Mapping[bytes, Sequence[float]]) -> dict[str, float] | None:
    # In this order NaN stays NaN.
    sums = {label: math.fsum(math.exp(min(p, 0.0)) for p in ps) for label, ps in found.items()}
    total = math.fsum(sums.values())
    if not 0 < total < math.inf:  # NaN too: a model that computes none is sure of nothing
        return None
    return {label.decode(): value / total for label, value in sums.items()}
