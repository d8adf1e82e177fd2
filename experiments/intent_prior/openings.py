"""How answers begin: the text that names an intent first, and the tokens that spell it at once."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.intent_prior.errors import PriorError


def answer_openings(schema: Mapping[str, Any]) -> dict[str, str]:
    """Return how a compact answer begins with each value of its first property.

    Args:
        schema: JSON schema of the answers, whose first property must be an `enum` of strings.

    Raises:
        PriorError: If it is not.
    """
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise PriorError("an intent prior needs an answer schema that has properties")
    name, first = next(iter(properties.items()))
    labels = first.get("enum") if isinstance(first, Mapping) else None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise PriorError(
            f"an intent prior needs an answer schema whose first property is an enum of strings; "
            f"{name!r} is {first!r:.80}"
        )
    key = json.dumps(name, ensure_ascii=False)
    return {label: f"{{{key}:{json.dumps(label, ensure_ascii=False)}" for label in labels}


def tokens_that_open(
    openings: Collection[str], pieces: Sequence[bytes]
) -> dict[str, tuple[int, ...]]:
    """Return the tokens that spell each opening, perhaps with more behind it.

    Args:
        openings: Texts, none of which is the beginning of another.
        pieces: Bytes of every token.

    Raises:
        PriorError: If one is not spelled by a single token, so that what is added to a first token
            could not tell it from others.
    """
    wanted = {text.encode(): text for text in openings}
    ways = tuple(wanted)
    found: dict[str, list[int]] = {text: [] for text in openings}
    for token, piece in enumerate(pieces):
        if piece.startswith(ways):
            opening = next(way for way in ways if piece.startswith(way))
            found[wanted[opening]].append(token)
    if missing := [text for text, tokens in found.items() if not tokens]:
        raise PriorError(
            f"this model has no token that spells {missing[0]!r} at once, nor "
            f"{len(missing) - 1} others of {len(found)}: an intent prior cannot reach its choice",
            "take intent_prior out of the profile.yaml, or train with training/answer_tokens.py",
        )
    return {text: tuple(tokens) for text, tokens in found.items()}
