"""GrowthBook's hash: the vectors that its SDKs are tested with, and the splits that follow."""

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from experiments.assignment import Allocation, Hash, Layout, assign, variant_bucket
from experiments.assignment.growthbook import hash_v2
from experiments.assignment.rules import Reason, Rules, place

GB = Hash.GROWTHBOOK_V2


# Entries of version 2 under "hash" in GrowthBook's tests/cases.json, specVersion 0.7.1, and the
# bucket of the case "creates experiments properly" there.
@pytest.mark.parametrize(
    ("seed", "value", "n"),
    [
        ("seed", "a", "0.0505"),
        ("seed", "b", "0.2696"),
        ("foo", "ab", "0.2575"),
        ("foo", "def", "0.2019"),
        ("89123klj", "8952klfjas09ujkasdf", "0.124"),
        ("90850943850283058242805", "123", "0.7516"),
        ("()**(%$##$%#$#", '___)((*":&', "0.0128"),
        ("feature", "123", "0.5231"),
    ],
)
def test_published_vectors(seed: str, value: str, n: str) -> None:
    assert hash_v2(value, seed=seed) == Decimal(n) * 10_000
    assert variant_bucket(value, salt=seed, hash=GB) == Decimal(n) * 10_000


# "getBucketRange" there: weights, coverage, ranges.
@pytest.mark.parametrize(
    ("weights", "coverage", "ranges"),
    [
        pytest.param([50, 50], 100, [(0, 0.5), (0.5, 1)], id="normal 50/50"),
        pytest.param([50, 50], 50, [(0, 0.25), (0.5, 0.75)], id="reduced coverage"),
        pytest.param([50, 50], 0, [(0, 0), (0.5, 0.5)], id="zero coverage"),
        pytest.param([25] * 4, 100, [(i / 4, i / 4 + 0.25) for i in range(4)], id="4 variations"),
        pytest.param([40, 60], 100, [(0, 0.4), (0.4, 1)], id="uneven weights"),
        pytest.param(
            [20, 30, 50], 20, [(0, 0.04), (0.2, 0.26), (0.5, 0.6)], id="uneven, reduced coverage"
        ),
    ],
)
def test_published_ranges(
    weights: list[int], coverage: int, ranges: list[tuple[float, float]]
) -> None:
    names = ["control", "v1", "v2", "v3"][: len(weights)]
    rules = growthbook(dict(zip(names, weights, strict=True)), coverage=coverage)
    for number in range(2000):
        unit = f"unit-{number}"
        n = hash_v2(unit, seed="exp") / 10_000
        expected = [name for name, (a, b) in zip(names, ranges, strict=True) if a <= n < b]
        found = place(unit, rules)
        enrolled = found.reason is Reason.ASSIGNED
        assert ([found.variant] if enrolled else []) == expected, (unit, n)


@given(st.text(min_size=1, max_size=30), st.integers(0, 100), st.integers(0, 100))
def test_more_coverage_only_adds_units_and_moves_none(unit: str, one: int, other: int) -> None:
    less, more = (
        place(unit, growthbook({"control": 30, "v1": 70}, coverage=coverage))
        for coverage in sorted((one, other))
    )
    if less.reason is Reason.ASSIGNED:
        assert more.assignment == less.assignment


def test_text_beyond_ascii_is_hashed_in_utf16_as_browsers_do() -> None:
    """By hand: FNV-1a over 0xD83D, 0xDC4D, then over the decimal text."""

    def fnv(units: list[int]) -> int:
        value = 2166136261
        for unit in units:
            value = (value ^ unit) * 16777619 % 2**32
        return value

    first = fnv([0xD83D, 0xDC4D])
    assert hash_v2("👍", seed="") == fnv([ord(c) for c in str(first)]) % 10_000


def test_buckets_of_session_ids_are_uniform() -> None:
    counts = Counter(hash_v2(f"session-{n}", seed="okla-v1-v2") // 100 for n in range(10_000))
    statistic = sum((counts[part] - 100) ** 2 / 100 for part in range(100))
    assert chi2.sf(statistic, df=99) > 1e-4


def test_the_other_hash_gives_other_variants() -> None:
    split = Allocation.from_percent({"a": 50, "b": 50}, control="a", layout=Layout.CUMULATIVE)
    ours, theirs = (
        [assign(f"u{i}", split, salt="s", hash=kind).variant for i in range(200)] for kind in Hash
    )
    assert ours != theirs


def test_empty_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="sticky"):
        variant_bucket("", salt="s", hash=GB)


def growthbook(percent: dict[str, int], *, coverage: int = 100) -> Rules:
    split = Allocation.from_percent(percent, control="control", layout=Layout.CUMULATIVE)
    return Rules(experiment="exp", salt="exp", allocation=split, hash=GB, coverage=coverage * 100)
