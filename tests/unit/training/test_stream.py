"""Deterministic choices."""

from collections import Counter

import pytest

from training.data.stream import Stream


def test_choices_are_the_same_on_every_machine() -> None:
    # Values of SHA-256 over "okla/42#0", "okla/42#1", ...: any drift changes every dataset hash.
    stream = Stream("okla", 42)
    assert [stream.below(1000) for _ in range(5)] == [15, 423, 931, 496, 893]


def test_a_child_depends_on_its_name_only() -> None:
    used = Stream("a")
    used.below(10)
    assert used.child("x", 1).below(10**9) == Stream("a").child("x", 1).below(10**9)


def test_children_differ() -> None:
    values = {Stream("a").child("row", i).below(2**63) for i in range(100)}
    assert len(values) == 100


def test_below_is_even() -> None:
    stream = Stream("even")
    counts = Counter(stream.below(10) for _ in range(10_000))
    # 3 sigma of a binomial with n = 10,000 and p = 0.1 is 90.
    assert all(abs(counts[i] - 1000) < 120 for i in range(10))


def test_below_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="positive"):
        Stream("a").below(0)


def test_shuffled_keeps_the_items_and_the_original() -> None:
    items = list(range(50))
    shuffled = Stream("a").shuffled(items)
    assert sorted(shuffled) == items == list(range(50))
    assert shuffled != items


def test_percent_limits_are_never_and_always() -> None:
    stream = Stream("a")
    assert not any(stream.percent(0) for _ in range(200))
    assert all(stream.percent(100) for _ in range(200))


def test_a_permutation_has_every_number_once_and_is_the_same_everywhere() -> None:
    made = Stream("order", 1).permutation(1_000)
    assert sorted(made.tolist()) == list(range(1_000))
    assert made[:5].tolist() == Stream("order", 1).permutation(1_000)[:5].tolist()
    assert made[:5].tolist() != Stream("order", 2).permutation(1_000)[:5].tolist()
    assert Stream("order", 1).permutation(5).tolist() == [2, 4, 1, 0, 3]
    assert Stream("order", 1).permutation(0).tolist() == []
