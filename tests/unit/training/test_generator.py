"""Conversations and their answers."""

import json
import re
from collections import Counter

import pytest

from training.contract import parse_answer
from training.data.catalog import Register, Split, intent_names, load_catalog
from training.data.generator import (
    Conversation,
    DataConfig,
    generate,
    phrases,
    replies_to_given_intents,
)

CONFIG = DataConfig(n_train=1500)


@pytest.fixture(scope="module")
def train() -> list[Conversation]:
    return list(generate(CONFIG, Split.TRAIN))


@pytest.fixture(scope="module")
def heldout() -> list[Conversation]:
    return list(generate(CONFIG, Split.HELDOUT))


def test_every_answer_keeps_the_contract(train: list[Conversation]) -> None:
    for conversation in train:
        answer = parse_answer(conversation.answer_json)
        assert answer is not None
        assert answer.intent == conversation.intent
        assert answer.to_compact_json() == conversation.answer_json


def test_no_slot_is_left_open(train: list[Conversation], heldout: list[Conversation]) -> None:
    for conversation in train + heldout:
        for message in conversation.messages:
            text = message.content if message.role == "user" else _response(message.content)
            assert not re.search(r"\{\w+\}", text), text


def test_intents_are_even(train: list[Conversation]) -> None:
    counts = Counter(c.intent for c in train)
    assert set(counts) == set(intent_names())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_no_held_out_family_is_trained_on(
    train: list[Conversation], heldout: list[Conversation]
) -> None:
    assert not {c.family for c in train} & {c.family for c in heldout}


def test_some_of_a_split_are_the_same_as_in_the_whole_of_it(
    train: list[Conversation], heldout: list[Conversation]
) -> None:
    for split, whole in ((Split.TRAIN, train), (Split.HELDOUT, heldout)):
        some = list(generate(CONFIG, split, at_most=100))
        assert some == whole[:: -(-len(whole) // 100)]
        assert 50 < len(some) <= 100
    assert list(generate(CONFIG, Split.TRAIN, at_most=5000)) == train


def test_held_out_covers_every_register_whatever_is_trained_on() -> None:
    config = DataConfig(n_train=10, registers=(Register.FORMAL,), pattern_percent=50)
    assert [c.family for c in generate(config, Split.HELDOUT)] == [
        c.family for c in generate(CONFIG, Split.HELDOUT)
    ]


def test_roles_alternate_and_end_with_the_answer(train: list[Conversation]) -> None:
    lengths = set()
    for conversation in train:
        roles = [m.role for m in conversation.messages]
        if conversation.inventory:
            assert roles.pop(0) == "system"
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        lengths.add(len(roles) // 2)
    assert {1, 3, 4, 5, 6, 7} <= lengths <= {1, *range(3, 11)}


def test_prices_years_and_models_in_answers_stand_in_the_inventory() -> None:
    config = CONFIG.model_copy(update={"inventory_percent": 100, "history_percent": 0})
    grounded = 0
    for conversation in generate(config, Split.TRAIN):
        reply = _response(conversation.answer_json)
        rows = conversation.messages[0].content
        assert conversation.messages[0].role == "system"
        for fact in re.findall(r"RD\$[\d,]*\d|\b(?:19|20)\d\d\b", reply):
            grounded += 1
            assert fact in rows, conversation
    assert grounded > 300


def test_the_vehicle_that_was_asked_for_is_the_one_answered_about() -> None:
    config = CONFIG.model_copy(update={"inventory_percent": 100, "history_percent": 0})
    for conversation in generate(config, Split.TRAIN):
        if conversation.intent != "consultar_precio" or conversation.noise:
            continue
        asked = [u for u in conversation.inventory if u.model in conversation.messages[1].content]
        reply = _response(conversation.answer_json)
        if len(asked) == 1 and "RD$" in reply:
            assert asked[0].price in reply, conversation


def test_without_inventory_no_reply_names_a_price_or_a_year() -> None:
    config = CONFIG.model_copy(update={"inventory_percent": 0})
    for conversation in generate(config, Split.TRAIN):
        assert not re.search(r"RD\$|\b20\d\d\b", _response(conversation.answer_json))


def test_single_messages_take_turns_and_are_labelled() -> None:
    said = list(phrases(CONFIG, 62))
    assert [p.intent for p in said[:31]] == list(intent_names())
    assert said == list(phrases(CONFIG, 62))
    assert all(p.text for p in said)


def test_replies_to_given_intents_are_those_of_another_intent_for_the_same_words() -> None:
    given = list(replies_to_given_intents(CONFIG, 310))
    assert [c.intent for c in given[:31]] == list(intent_names())
    named = [parse_answer(c.answer_json) for c in given]
    assert all(a is not None and a.intent != c.intent for a, c in zip(named, given, strict=True))
    assert len({a.intent for a in named if a is not None}) == len(intent_names())
    assert all(c.split is Split.TRAIN for c in given)
    handoffs = {a.handoff for a in named if a is not None and a.intent == "pedir_humano"}
    assert handoffs == {True}


def test_vehicle_names_in_replies_were_said_by_the_customer() -> None:
    config = CONFIG.model_copy(
        update={"history_percent": 0, "inventory_percent": 0, "echo_percent": 50}
    )
    names = {model for _, model in load_catalog().slots.vehicles}
    for conversation in generate(config, Split.TRAIN):
        answer = parse_answer(conversation.answer_json)
        assert answer is not None
        named = [n for n in names if re.search(rf"\b{re.escape(n)}\b", answer.response)]
        if named and not conversation.noise:
            assert all(n in conversation.messages[-2].content for n in named), conversation


def test_telephone_numbers_are_of_the_fictitious_block(train: list[Conversation]) -> None:
    text = " ".join(m.content for c in train for m in c.messages if m.role == "user")
    numbers = re.findall(r"8[024]9[ -]?\d{3}-?\d{4}", text)
    assert numbers
    assert all(re.fullmatch(r"809[ -]?555-?01\d\d", n) for n in numbers)


def test_formal_replies_are_drawn_from_formal_templates() -> None:
    config = DataConfig(
        n_train=310, reply_register="formal", history_percent=0, inventory_percent=0
    )
    street = {t for r in load_catalog().replies.values() for t in r.street if "{" not in t}
    assert not street & {_response(c.answer_json) for c in generate(config, Split.TRAIN)}


def test_slots_speak_in_the_lead_signals() -> None:
    for conversation in generate(DataConfig(n_train=3000, history_percent=0), Split.TRAIN):
        answer = parse_answer(conversation.answer_json)
        assert answer is not None
        if re.search(r"555-?01\d\d", conversation.messages[-2].content):
            assert answer.lead_signals.contact_provided
        if answer.intent == "prueba_manejo":
            assert answer.lead_signals.test_drive


def test_a_seed_gives_the_same_conversations_and_another_one_others() -> None:
    def lines(seed: int) -> list[str]:
        return [c.to_json() for c in generate(DataConfig(seed=seed, n_train=50), Split.TRAIN)]

    assert lines(42) == lines(42)
    assert lines(42) != lines(43)


def _response(content: str) -> str:
    return str(json.loads(content)["response"]) if content.startswith("{") else content
