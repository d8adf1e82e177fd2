"""The data files of the generator."""

import re
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from scipy import sparse

from training.data.catalog import (
    Catalog,
    Register,
    Split,
    choose_alternatives,
    load_catalog,
    normalise,
    readings,
    slots_of,
)
from training.data.families import jaccard, shingles
from training.data.stream import Stream

MAX_REPLY_CHARS = 220


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def test_every_intent_has_five_hundred_phrases_in_three_registers(catalog: Catalog) -> None:
    for intent in catalog.intents:
        patterns = [p for p in catalog.patterns if p.intent == intent]
        assert len(patterns) >= 500, intent
        assert {p.register for p in patterns} == set(Register), intent


def test_every_intent_has_held_out_and_training_families(catalog: Catalog) -> None:
    for intent in catalog.intents:
        splits = Counter(
            {p.family: p.split for p in catalog.patterns if p.intent == intent}.values()
        )
        assert splits[Split.HELDOUT] >= 30, intent
        assert splits[Split.DEV] >= 3, intent
        assert splits[Split.TRAIN] > 6 * splits[Split.HELDOUT], intent


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


def test_telephone_numbers_in_the_data_files_are_fictitious(catalog: Catalog) -> None:
    written = [p.text for p in catalog.patterns] + [
        v for values in catalog.slots.values.values() for v in values
    ]
    numbers = re.compile(r"8[024]9\D{0,2}(?!555)\d{3}")
    assert not [text for text in written if numbers.search(text)]


def test_near_duplicates_are_in_one_split(catalog: Catalog) -> None:
    by_reading = {r: p.split for p in catalog.patterns for r in readings(p.text)}
    heldout = [shingles(r) for r, split in by_reading.items() if split is Split.HELDOUT][:150]
    trained = [shingles(r) for r, split in by_reading.items() if split is Split.TRAIN]
    assert 0.3 < _nearest(heldout, trained) < 0.7


def _nearest(some: list[frozenset[str]], others: list[frozenset[str]]) -> float:
    """Compare everything with everything; the largest Jaccard similarity."""
    column: dict[str, int] = {}
    for shingle in chain.from_iterable(chain(some, others)):
        column.setdefault(shingle, len(column))

    def incidence(sets: list[frozenset[str]]) -> sparse.csr_matrix:
        at = [column[shingle] for one in sets for shingle in one]
        starts = np.cumsum([0, *map(len, sets)])
        return sparse.csr_matrix((np.ones(len(at)), at, starts), shape=(len(sets), len(column)))

    common = (incidence(some) @ incidence(others).T).toarray()
    sizes = np.add.outer([len(one) for one in some], [len(other) for other in others])
    nearest = np.unravel_index(np.argmax(common / (sizes - common)), common.shape)
    return jaccard(some[nearest[0]], others[nearest[1]])


def test_an_alternative_is_chosen_and_the_rest_kept() -> None:
    said = {choose_alternatives("[dame|pasa] el precio [porfa|]", Stream(i)) for i in range(40)}
    assert said == {
        "dame el precio porfa",
        "pasa el precio porfa",
        "dame el precio",
        "pasa el precio",
    }


def test_a_phrase_without_alternatives_is_left_as_it_is() -> None:
    assert choose_alternatives("  ?¿ ", Stream(1)) == "  ?¿ "
