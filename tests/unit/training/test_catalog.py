"""The data files of the generator."""

import re

import pytest

from training.data.catalog import Catalog, Register, load_catalog, normalise, slots_of

MAX_REPLY_CHARS = 220


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def test_every_intent_has_forty_patterns_in_three_registers(catalog: Catalog) -> None:
    for intent in catalog.intents:
        patterns = [p for p in catalog.patterns if p.intent == intent]
        assert len(patterns) >= 40, intent
        assert {p.register for p in patterns} == set(Register), intent


def test_every_intent_has_held_out_and_training_families(catalog: Catalog) -> None:
    for intent in catalog.intents:
        families = {p.family: p.is_heldout for p in catalog.patterns if p.intent == intent}
        assert 1 <= sum(families.values()) <= len(families) // 3, intent


def test_patterns_that_differ_in_accents_share_a_family() -> None:
    assert normalise("¿CUÁNTO cuesta la {veh}?") == normalise("cuanto cuesta la {veh}")


def test_a_pattern_of_signs_only_is_its_own_family() -> None:
    assert normalise("???") != normalise("...")


def test_reply_templates_are_short_and_use_slots_that_a_message_can_bind(catalog: Catalog) -> None:
    bindable = {"model", "model2", "make", "body", "un_body", "bodies", "day"}
    for intent, replies in catalog.replies.items():
        for template in replies.formal + replies.street:
            assert len(template) <= MAX_REPLY_CHARS, intent
            assert set(slots_of(template)) <= bindable, template
        for register in (replies.formal, replies.street):
            assert any(not slots_of(t) for t in register), intent


def test_no_telephone_number_is_written_in_the_data_files(catalog: Catalog) -> None:
    written = [p.text for p in catalog.patterns] + [
        v for values in catalog.slots.values.values() for v in values
    ]
    assert not [text for text in written if re.search(r"8[024]9\D?\d{3}", text)]
