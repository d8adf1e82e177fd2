"""The answer schema, the type and the list of intents are one contract."""

import json
from typing import Any

import pytest

from training.contract import (
    MAX_QUICK_REPLIES,
    MAX_QUICK_REPLY_CHARS,
    MAX_RESPONSE_CHARS,
    URGENCIES,
    Answer,
    LeadSignals,
    answer_schema,
    parse_answer,
    system_prompt,
)
from training.data.catalog import intent_names

STRICT_KEYWORDS = {
    "$schema", "title", "type", "properties", "required", "enum", "maxLength", "minimum", "maximum",
    "items", "maxItems", "additionalProperties",
}  # fmt: skip


def an_answer(**changes: Any) -> Answer:
    fields: dict[str, Any] = {
        "response": "¡Klk! ¿Qué busca?",
        "intent": "saludo",
        "confidence": 0.9,
        "lead_signals": LeadSignals(urgency="low"),
        "handoff": False,
        "quick_replies": ["Sí", "No"],
    }
    return Answer(**{**fields, **changes})


def schema_keywords(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(schema_keywords, node))
    if not isinstance(node, dict):
        return set()
    nested = [v for k, v in node.items() if k != "properties"]
    nested += list(node.get("properties", {}).values())
    return set(node) | set().union(*map(schema_keywords, nested))


def test_schema_and_generator_have_the_same_31_intents_in_the_same_order() -> None:
    assert len(intent_names()) == 31
    assert answer_schema()["properties"]["intent"]["enum"] == list(intent_names())


def test_schema_and_type_have_the_same_keys_in_the_same_order() -> None:
    wire = an_answer().model_dump(by_alias=True)
    schema = answer_schema()
    assert list(wire) == list(schema["properties"]) == schema["required"]
    signals = schema["properties"]["leadSignals"]
    assert list(wire["leadSignals"]) == list(signals["properties"]) == signals["required"]


def test_schema_and_type_have_the_same_limits() -> None:
    properties = answer_schema()["properties"]
    quick = properties["quickReplies"]
    assert properties["response"]["maxLength"] == MAX_RESPONSE_CHARS
    assert (quick["maxItems"], quick["items"]["maxLength"]) == (
        MAX_QUICK_REPLIES,
        MAX_QUICK_REPLY_CHARS,
    )
    assert properties["leadSignals"]["properties"]["urgency"]["enum"] == list(URGENCIES)


def test_schema_stays_within_the_strict_subset() -> None:
    assert schema_keywords(answer_schema()) <= STRICT_KEYWORDS


def test_compact_json_has_no_spaces_and_two_decimals() -> None:
    text = an_answer().to_compact_json()
    assert text.startswith('{"intent":"saludo","confidence":0.90,"response":"¡Klk! ¿Qué busca?",')
    assert text.endswith('"handoff":false,"quickReplies":["Sí","No"]}')
    assert json.loads(text)["leadSignals"]["contactProvided"] is False


def test_compact_json_reads_back() -> None:
    answer = an_answer(response='Comillas " y \\ barra')
    assert parse_answer(answer.to_compact_json()) == answer


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("", id="empty"),
        pytest.param('{"response":"hola"', id="cut"),
        pytest.param("[1]", id="array"),
        pytest.param(an_answer().to_compact_json().replace("saludo", "saludos"), id="intent"),
        pytest.param(an_answer().to_compact_json().replace("0.90", "1.90"), id="confidence"),
        pytest.param(an_answer().to_compact_json().replace("false", '"no"'), id="text-for-bool"),
        pytest.param(an_answer().to_compact_json().replace('"Sí"', f'"{"x" * 33}"'), id="long"),
        pytest.param(an_answer().to_compact_json()[:-1] + ',"extra":1}', id="extra"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_none(broken: str) -> None:
    assert parse_answer(broken) is None


def test_system_prompt_is_one_short_line() -> None:
    assert "\n" not in system_prompt()
    assert len(system_prompt().split()) < 60
