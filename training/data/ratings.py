"""Answers with a known fault, rated as a person would: trial material for the feedback loop.

Each of the 12 feedback categories has one named corruption of a right answer. Nobody trains on
them; they show that analysis, review and retraining tell good from bad.
"""

from collections.abc import Callable, Iterator
from typing import Any

from experiments.feedback.metrics import Category
from training.contract import Answer
from training.data.catalog import Split, intent_names
from training.data.generator import Conversation, DataConfig, generate
from training.data.stream import Stream

SCHEMA_VERSION = 1
"""Of the lines, which are those of `carril feedback export`."""

Corruption = Callable[[Answer, Stream], Answer]


def other_intent(answer: Answer, stream: Stream) -> Answer:
    """Name another intent."""
    others = [name for name in intent_names() if name != answer.intent]
    return answer.model_copy(update={"intent": stream.choice(others)})


def invented_promise(answer: Answer, stream: Stream) -> Answer:
    """Promise what nobody offered."""
    years = 5 + stream.below(6)
    return _reply(
        answer, f"{answer.response} Incluye {years} años de garantía total y seguro gratis."
    )


def cut_short(answer: Answer, stream: Stream) -> Answer:
    """Stop in the middle of the reply."""
    words = answer.response.split(" ")
    return _reply(answer, " ".join(words[: 1 + stream.below(max(1, len(words) // 2))]))


def in_english(answer: Answer, stream: Stream) -> Answer:
    """Reply in English."""
    replies = ("Sure, how can I help you today?", "That unit is not listed right now, sorry.")
    return _reply(answer, stream.choice(replies))


def like_a_letter(answer: Answer, stream: Stream) -> Answer:
    """Reply as a notary would."""
    openings = ("Muy distinguido señor mío: ", "Por medio de la presente le participo: ")
    return _reply(answer, f"{stream.choice(openings)}{answer.response}")


def like_a_cousin(answer: Answer, stream: Stream) -> Answer:
    """Reply as at the corner."""
    openings = ("Qué lo qué mi loco, tú ta duro. ", "Dale menor, no coja lucha. ")
    return _reply(answer, f"{stream.choice(openings)}{answer.response}")


def foreign_cedula(answer: Answer, stream: Stream) -> Answer:
    """Tell somebody's identity number, of a series that is never issued."""
    number = f"999-{stream.below(10**7):07d}-{stream.below(10)}"
    return _reply(answer, f"{answer.response} El dueño anterior tiene la cédula {number}.")


def invented_price(answer: Answer, stream: Stream) -> Answer:
    """Name a price that no row has."""
    price = 111_000 + 1_000 * stream.below(800)
    return _reply(answer, f"{answer.response} Se la dejamos en RD${price:,}.")


def invented_model_year(answer: Answer, stream: Stream) -> Answer:
    """Name a model year that no row has."""
    return _reply(answer, f"{answer.response} Es del año {1980 + stream.below(15)}.")


def unrelated_advertisement(answer: Answer, stream: Stream) -> Answer:
    """Add what does not belong there."""
    lines = ("Síguenos en todas las redes!!!", "Hoy hay música en vivo!!!")
    return _reply(answer, f"{answer.response} {stream.choice(lines)}")


def unchanged(answer: Answer, stream: Stream) -> Answer:  # noqa: ARG001 - one signature for all
    """Leave the answer as it is."""
    return answer


CORRUPTIONS: dict[Category, Corruption] = {
    Category.WRONG_INTENT: other_intent,
    Category.HALLUCINATION: invented_promise,
    Category.INCOMPLETE: cut_short,
    Category.WRONG_LANGUAGE: in_english,
    Category.TOO_FORMAL: like_a_letter,
    Category.TOO_INFORMAL: like_a_cousin,
    Category.PRIVACY_LEAK: foreign_cedula,
    Category.WRONG_PRICE: invented_price,
    Category.WRONG_VEHICLE_INFO: invented_model_year,
    Category.SLOW_RESPONSE: unchanged,
    Category.GOOD_RESPONSE: unchanged,
    Category.OTHER: unrelated_advertisement,
}


def rated_answers(config: DataConfig) -> Iterator[dict[str, Any]]:
    """Yield one rated answer for each development conversation, categories in turn.

    Args:
        config: What the dataset is made of.
    """
    categories = list(CORRUPTIONS)
    for number, conversation in enumerate(generate(config, Split.DEV)):
        category = categories[number % len(categories)]
        yield _line(conversation, category, number, Stream("ratings", config.seed, number))


def _line(
    conversation: Conversation, category: Category, number: int, stream: Stream
) -> dict[str, Any]:
    right = Answer.model_validate_json(conversation.answer_json)
    given = CORRUPTIONS[category](right, stream)
    is_good = category is Category.GOOD_RESPONSE
    return {
        "schema_version": SCHEMA_VERSION,
        "feedback_id": f"rated-{number:06d}",
        "inference_id": f"rated-inference-{number:06d}",
        "received_at": "2026-01-01T12:00:00Z",
        "unit": f"person-{number % 97:02d}",
        "tenant": "default",
        "variant": "stable",
        "model_sha256": None,
        "thumbs": "up" if is_good else "down",
        "rating": 5 if is_good else 1 + stream.below(2),
        "category": str(category),
        "correction": None if is_good else right.to_compact_json(),
        "metric_name": "category",
        "value": str(category),
        "messages": [{"role": m.role, "content": m.content} for m in conversation.messages[:-1]],
        "answer": given.to_compact_json(),
        "approved": None,
    }


def _reply(answer: Answer, response: str) -> Answer:
    return answer.model_copy(update={"response": response[:320]})
