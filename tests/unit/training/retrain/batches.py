"""Batches of approved feedback, honest and poisoned."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from training.retrain.examples import Example
from training.retrain.suggestions import ReviewItem, SuggestionKind

_START = datetime(2026, 5, 1, tzinfo=UTC)


def item(number: int, example: Example, **changes: object) -> ReviewItem:
    """Feedback on a conversation: a praised answer of somebody who rates twice."""
    fields: dict[str, object] = {
        "item_id": f"{number:016x}",
        "inference_id": f"inference-{number}",
        "person": f"person-{number // 2}",
        "received_at": _START + timedelta(hours=number),
        "kind": SuggestionKind.CONFIRMED,
        "intent": example.intent,
        "confidence": 0.9,
        "answered_intent": example.intent,
        "model_sha256": "a" * 64,
        "messages": example.messages,
    }
    return ReviewItem.model_validate(fields | changes)


def with_text(example: Example, text: str) -> Example:
    """The same conversation with another last message of the customer."""
    *before, said, answer = example.messages
    return example.model_copy(
        update={"messages": (*before, said.model_copy(update={"content": text}), answer)}
    )


def said(example: Example) -> str:
    """The last message of the customer, as typed."""
    return example.messages[-2].content


def honest(unseen: Sequence[Example], n: int, seed: int) -> list[ReviewItem]:
    """Praised answers, and one in ten corrected: the model had said a random other intent."""
    rng = random.Random(seed)
    labels = sorted({example.intent for example in unseen})
    found = []
    for number, example in enumerate(rng.sample(list(unseen), n)):
        answered = example.intent
        if number % 10 == 0:
            answered = rng.choice([label for label in labels if label != example.intent])
        found.append(item(number, example, answered_intent=answered))
    return found
