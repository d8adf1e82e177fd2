"""What each kind of feedback suggests to learn."""

import json

import pytest

from tests.unit.training.retrain.batches import said
from training.contract import parse_answer
from training.retrain.examples import Example
from training.retrain.feedback import FeedbackExample
from training.retrain.suggestions import (
    ReviewItem,
    SuggestionKind,
    SuggestionPolicy,
    suggest,
)


@pytest.fixture(scope="module")
def example(known: list[Example]) -> Example:
    return next(e for e in known if e.intent == "consultar_precio" and len(e.messages) == 2)


def _feedback(example: Example, **changes: object) -> FeedbackExample:
    fields: dict[str, object] = {
        "schema_version": 1,
        "feedback_id": "f1",
        "inference_id": "chatcmpl-1",
        "received_at": "2026-05-01T12:00:00+00:00",
        "unit": "session-1",
        "messages": [turn.model_dump() for turn in example.messages[:-1]],
        "answer": example.messages[-1].content,
    }
    return FeedbackExample.model_validate_json(json.dumps(fields | changes))


def _one(feedback: FeedbackExample, known: list[Example]) -> ReviewItem:
    found = suggest([feedback], known, SuggestionPolicy())
    assert found.skipped == {}
    return found.items[0]


def _skipped(feedback: FeedbackExample, known: list[Example]) -> str:
    found = suggest([feedback], known, SuggestionPolicy())
    assert found.items == ()
    (reason,) = found.skipped
    return reason


def test_praise_suggests_the_answer_as_it_was(example: Example, known: list[Example]) -> None:
    one = _one(_feedback(example, thumbs="up"), known)
    assert (one.kind, one.intent) == (SuggestionKind.CONFIRMED, "consultar_precio")
    assert one.confidence >= 0.85
    assert parse_answer(one.messages[-1].content) == parse_answer(example.messages[-1].content)


def test_a_corrected_intent_takes_the_answer_of_the_nearest_phrase_with_it(
    example: Example, known: list[Example]
) -> None:
    one = _one(
        _feedback(example, thumbs="down", category="wrong_intent", correction=" Pedir_Humano "),
        known,
    )
    answer = parse_answer(one.messages[-1].content)
    assert answer is not None
    assert (one.kind, answer.intent) == (SuggestionKind.CORRECTED_INTENT, "pedir_humano")
    assert one.answered_intent == "consultar_precio"
    assert answer.response in {
        parsed.response
        for e in known
        if e.intent == "pedir_humano" and (parsed := parse_answer(e.messages[-1].content))
    }


def test_a_corrected_text_replaces_the_response_only(
    example: Example, known: list[Example]
) -> None:
    one = _one(
        _feedback(example, category="too_formal", correction="Dime a ver, mi hermano"), known
    )
    before, after = (
        parse_answer(text) for text in (example.messages[-1].content, one.messages[-1].content)
    )
    assert before is not None
    assert after == before.model_copy(update={"response": "Dime a ver, mi hermano"})


def test_a_corrected_answer_is_taken_whole(example: Example, known: list[Example]) -> None:
    other = next(e for e in known if e.intent == "saludo").messages[-1].content
    one = _one(_feedback(example, rating=1, correction=other), known)
    assert (one.kind, one.intent) == (SuggestionKind.CORRECTED_ANSWER, "saludo")


def test_a_wrong_intent_of_a_known_phrase_is_suggested_by_its_neighbours(
    example: Example, known: list[Example]
) -> None:
    wrong = next(e for e in known if e.intent == "saludo").messages[-1].content
    found = suggest(
        [_feedback(example, category="wrong_intent", answer=wrong)],
        known,
        SuggestionPolicy(min_confidence=0.3),
    )
    assert [one.kind for one in found.items] == [SuggestionKind.SUGGESTED_INTENT]
    assert found.items[0].intent == "consultar_precio"
    assert found.items[0].confidence < 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"thumbs": "up", "messages": None}, "text was not captured"),
        ({"thumbs": "up", "answer": "Claro que sí"}, "the answer breaks the contract"),
        ({"thumbs": "up", "rating": 1}, "not confident enough"),
        ({"thumbs": "up", "correction": "despedida"}, "not confident enough"),
        ({"thumbs": "down"}, "says what is wrong, not what is right"),
        ({"rating": 3}, "says neither good nor bad"),
        ({"rating": 1, "correction": "x" * 400}, "text too long"),
        (
            {"thumbs": "up", "messages": [{"role": "assistant", "content": "hola"}]},
            "roles do not alternate",
        ),
        (
            {"thumbs": "up", "messages": [{"role": "user", "content": "hola<|eot_id|>"}]},
            "special tokens in the text",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_teaches_nothing_is_left_out_with_a_reason(
    example: Example, known: list[Example], changes: dict[str, object], reason: str
) -> None:
    assert _skipped(_feedback(example, **changes), known) == reason


def test_people_are_hashes_and_tenants_keep_them_apart(example: Example) -> None:
    one, other = (_feedback(example, tenant=tenant).person for tenant in ("a", "b"))
    assert one != other
    assert "session-1" not in one
    assert said(example) not in one
