"""Splits that share nothing."""

import pytest

from tests.unit.training.retrain.batches import said, with_text
from training.retrain.examples import Example
from training.retrain.split import PARTS, leaks, similar_to, split


def test_nothing_is_shared_and_the_shares_are_met(known: list[Example]) -> None:
    parts = split(known, salt="s")
    assert leaks(parts) == []
    assert sum(len(parts[part]) for part in PARTS) == len(known)
    shares = {part: len(members) / len(known) for part, members in parts.items()}
    assert shares["train"] == pytest.approx(0.85, abs=0.04)
    assert shares["dev"] == pytest.approx(0.10, abs=0.03)
    assert shares["heldout"] == pytest.approx(0.05, abs=0.03)
    assert {example.split for example in parts["dev"]} == {"dev"}


def test_new_data_moves_nothing_that_is_not_related_to_it(known: list[Example]) -> None:
    before = split(known[:1_200], salt="s")
    after = split(known, salt="s")
    placed = {e.id: part for part, members in after.items() for e in members}
    moved = [e.id for part, members in before.items() for e in members if placed[e.id] != part]
    # Only by joining an older component.
    assert len(moved) <= 0.02 * 1_200


def test_another_salt_splits_otherwise(known: list[Example]) -> None:
    one, other = split(known, salt="s"), split(known, salt="t")
    assert {e.id for e in one["heldout"]} != {e.id for e in other["heldout"]}


def test_a_family_in_two_parts_is_a_leak(known: list[Example]) -> None:
    parts = split(known, salt="s")
    stray = parts["train"][0].model_copy(update={"id": "stray"})
    parts["heldout"].append(with_text(stray, "algo que nadie ha dicho"))
    assert [leak.other for leak in leaks(parts)] == ["stray"]


def test_a_near_duplicate_in_two_parts_is_a_leak(known: list[Example]) -> None:
    parts = split(known, salt="s")
    twin = max(parts["train"], key=lambda example: len(example.text))
    stray = with_text(twin, f"{said(twin)} ok").model_copy(update={"id": "x", "family": "own"})
    parts["dev"].append(stray)
    assert any(leak.why == "near-duplicates" and "x" in leak[:2] for leak in leaks(parts))


def test_all_copies_of_a_protected_phrase_are_found() -> None:
    texts = ["cuanto cuesta la hilux del 2019", "otra cosa", "cuanto cuesta la hilux del 2019"]
    assert similar_to(texts, ["cuanto cuesta la hilux del 2019 ya"]) == [0, 2]
