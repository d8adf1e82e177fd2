"""The review queue: append-only, all or nothing, last decision counts."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments.retraining.errors import BadRecord
from tests.unit.training.retrain.batches import item
from training.retrain.examples import Example
from training.retrain.review import ReviewQueue, ReviewState
from training.retrain.suggestions import ReviewItem

_NOW = datetime(2026, 5, 2, tzinfo=UTC)
APPROVED, REJECTED = ReviewState.APPROVED, ReviewState.REJECTED


@pytest.fixture
def items(known: list[Example]) -> list[ReviewItem]:
    return [
        item(number, example, item_id=f"{number + 1}".ljust(16, "0"))
        for number, example in enumerate(known[:3])
    ]


@pytest.fixture
def queue(tmp_path: Path, items: list[ReviewItem]) -> ReviewQueue:
    queue = ReviewQueue(tmp_path)
    assert queue.add(items, now=_NOW) == 3
    return queue


def test_items_wait_until_somebody_decides(queue: ReviewQueue, items: list[ReviewItem]) -> None:
    assert [one.item for one in queue.items(ReviewState.PENDING)] == items
    assert queue.items(APPROVED) == []


def test_the_same_item_is_added_once(queue: ReviewQueue, items: list[ReviewItem]) -> None:
    assert queue.add(items, now=_NOW) == 0
    assert len(queue.items()) == 3


def test_the_last_decision_counts_and_the_first_stays_on_record(queue: ReviewQueue) -> None:
    queue.decide(["1"], APPROVED, by="ana", now=_NOW)
    queue.decide(["1"], REJECTED, by="luis", note="another customer's name", now=_NOW)
    (one,) = queue.items(REJECTED)
    assert [(d.decision, d.by, d.note) for d in one.decisions] == [
        (APPROVED, "ana", ""),
        (REJECTED, "luis", "another customer's name"),
    ]


def test_two_people_second_an_item_and_one_person_twice_does_not(queue: ReviewQueue) -> None:
    for by in ("ana", "Ana"):
        queue.decide(["1"], APPROVED, by=by, now=_NOW)
    assert not queue.items(APPROVED)[0].is_seconded
    (one,) = queue.decide(["1"], APPROVED, by="luis", now=_NOW)
    assert one.is_seconded
    queue.decide(["1"], REJECTED, by="luis", now=_NOW)
    (one,) = queue.decide(["1"], APPROVED, by="luis", now=_NOW)
    assert not one.is_seconded


def test_a_decision_on_several_items_is_made_on_all_or_none(queue: ReviewQueue) -> None:
    before = queue.path.read_bytes()
    with pytest.raises(BadRecord, match="no item of the queue begins with 'f'"):
        queue.decide(["1", "f"], APPROVED, by="ana", now=_NOW)
    assert queue.path.read_bytes() == before


def test_lines_are_only_ever_added(queue: ReviewQueue) -> None:
    before = queue.path.read_bytes()
    queue.decide(["1", "2"], APPROVED, by="ana", now=_NOW)
    assert queue.path.read_bytes().startswith(before)


def test_a_line_cut_off_by_a_crash_does_not_count(queue: ReviewQueue) -> None:
    whole = queue.path.read_bytes()
    queue.path.write_bytes(whole + b'{"event":"decision","item_id":"1000')
    assert len(queue.items(ReviewState.PENDING)) == 3
    queue.decide(["2"], APPROVED, by="ana", now=_NOW)
    assert len(queue.items(APPROVED)) == 1


def test_a_broken_line_is_named(queue: ReviewQueue) -> None:
    queue.path.write_bytes(queue.path.read_bytes() + b'{"event":"decision","by":""}\n')
    with pytest.raises(BadRecord, match=r"review\.jsonl:4"):
        queue.items()
