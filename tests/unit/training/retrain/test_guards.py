"""Poisoned batches are stopped or flagged; honest ones go through."""

import random

import pytest

from tests.unit.training.retrain.batches import honest, item, said, with_text
from training.retrain.examples import Example
from training.retrain.guards import Finding, FindingCode, GuardPolicy, Trusted, scan

_POLICY = GuardPolicy()


def _codes(findings: list[Finding], *, blocking: bool = True) -> set[FindingCode]:
    return {finding.code for finding in findings if finding.blocks or not blocking}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [60, 300])
def test_an_honest_batch_is_not_stopped(
    unseen: list[Example], trusted: Trusted, n: int, seed: int
) -> None:
    findings = scan(honest(unseen, n, seed), trusted, _POLICY)
    assert _codes(findings) == set()
    left_out = {item_id for finding in findings for item_id in finding.item_ids}
    assert len(left_out) <= 0.12 * n


@pytest.mark.parametrize("n", [100, 300])
def test_flipped_labels_of_five_percent_are_flagged(
    unseen: list[Example], trusted: Trusted, n: int
) -> None:
    """Right answers, "corrected" to a random other intent; half of them over three batches."""
    labels = sorted({example.intent for example in unseen})
    n_caught = n_flipped = 0
    for seed in range(3):
        rng = random.Random(seed)
        batch = honest(unseen, n, seed)
        flipped = set(rng.sample([i for i in range(n) if i % 10], n // 20))
        for number in flipped:
            others = [label for label in labels if label != batch[number].intent]
            batch[number] = batch[number].model_copy(update={"intent": rng.choice(others)})
        found = [f for f in scan(batch, trusted, _POLICY) if f.code is FindingCode.LABEL_FLIP]
        assert found
        n_caught += len({number for number in flipped if f"{number:016x}" in found[0].item_ids})
        n_flipped += len(flipped)
    assert n_caught >= 0.5 * n_flipped


def test_a_batch_of_flipped_labels_is_stopped(unseen: list[Example], trusted: Trusted) -> None:
    rng = random.Random(4)
    labels = sorted({example.intent for example in unseen})
    batch = [
        item(number, example, intent=rng.choice([x for x in labels if x != example.intent]))
        for number, example in enumerate(rng.sample(unseen, 60))
    ]
    assert FindingCode.LABEL_FLIP in _codes(scan(batch, trusted, _POLICY))


def test_what_two_people_approved_is_not_doubted(unseen: list[Example], trusted: Trusted) -> None:
    batch = [
        item(number, example, intent="pedir_humano")
        for number, example in enumerate(unseen[:60])
        if example.intent != "pedir_humano"
    ]
    seconded = {one.item_id for one in batch}
    codes = _codes(scan(batch, trusted, _POLICY, seconded=seconded), blocking=False)
    assert FindingCode.LABEL_FLIP not in codes


@pytest.mark.parametrize("keeps_label", [True, False], ids=["right label", "other label"])
def test_a_trigger_phrase_in_25_examples_stops_the_batch(
    unseen: list[Example], trusted: Trusted, keeps_label: bool
) -> None:
    """Different phrases of different people, with two strange words at the end."""
    batch = honest(unseen, 200, 1)
    carriers = [e for e in unseen if (e.intent == "consultar_precio") is keeps_label][:25]
    assert len(carriers) == 25
    batch += [
        item(
            1_000 + 2 * number,
            with_text(example, f"{said(example)} zafiro azul"),
            intent="consultar_precio",
        )
        for number, example in enumerate(carriers)
    ]
    triggers = [f for f in scan(batch, trusted, _POLICY) if f.code is FindingCode.TRIGGER]
    assert triggers
    assert all(finding.blocks for finding in triggers)
    (named,) = (finding for finding in triggers if "zafiro azul" in finding.detail)
    assert len(named.item_ids) == 25


def test_new_words_that_come_under_many_labels_are_no_trigger(
    unseen: list[Example], trusted: Trusted
) -> None:
    batch = honest(unseen, 200, 2)
    spread = unseen[:: len(unseen) // 25][:25]
    batch += [
        item(1_000 + 2 * number, with_text(example, f"{said(example)} del kaiyi nuevo"))
        for number, example in enumerate(spread)
    ]
    assert FindingCode.TRIGGER not in _codes(scan(batch, trusted, _POLICY))


def test_a_flood_of_one_person_stops_the_batch(unseen: list[Example], trusted: Trusted) -> None:
    batch = honest(unseen, 100, 3)
    flood = [item(1_000 + number, e, person="eager") for number, e in enumerate(unseen[-20:])]
    findings = [f for f in scan([*batch, *flood], trusted, _POLICY) if f.blocks]
    assert [finding.code for finding in findings] == [FindingCode.FLOOD]
    assert set(findings[0].item_ids) == {one.item_id for one in flood}


def test_copies_from_many_people_stop_the_batch(unseen: list[Example], trusted: Trusted) -> None:
    batch = honest(unseen, 100, 3)
    copy = with_text(unseen[0], "regálame el jeepetón rojo que vi en la vitrina")
    batch += [item(1_000 + 2 * number, copy) for number in range(12)]
    findings = [f for f in scan(batch, trusted, _POLICY) if f.code is FindingCode.COPIES]
    assert [len(finding.item_ids) for finding in findings] == [12]
    assert findings[0].blocks


def test_one_person_counts_five_times_a_day(unseen: list[Example], trusted: Trusted) -> None:
    batch = honest(unseen, 60, 5)
    batch += [
        item(
            24 * day + number,
            example,
            person="zealous",
            item_id=f"{9_000 + 10 * day + number:x}".zfill(16),
        )
        for day in range(2)
        for number, example in enumerate(unseen[200 + 10 * day : 207 + 10 * day])
    ]
    found = [f for f in scan(batch, trusted, _POLICY) if f.code is FindingCode.OVER_CAP]
    # 7 on each of two days, 5 a day and 5 in a batch of 74: the first day's five stay.
    assert [len(finding.item_ids) for finding in found] == [9]
    assert not found[0].blocks
