"""Who takes part, and why: layers, holdout, coverage, targeting and overrides, as properties."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, chi2_contingency, chisquare

from experiments.assignment import N_BUCKETS, Allocation
from experiments.assignment.rules import Holdout, Placement, Reason, Rules, Slots, choose, place
from experiments.assignment.targeting import Attribute, AttributeType, Condition, Given
from tests.unit.experiments.assignment.answers import answers

N = 10_000
UNITS = [f"session-{number}" for number in range(N)]
P_MIN = 1e-4
"""Chance at which a fixed set of units would look unlike chance; the tests below are few."""

units = st.text(min_size=1, max_size=30)
buckets = st.integers(0, N_BUCKETS)
CHANNEL = Attribute(name="channel", type=AttributeType.TEXT, header="x-channel")


def rules(name: str = "a", *, treatment: int = 50, **changes: object) -> Rules:
    split = {"control": 100 - treatment, "treatment": treatment}
    made = Rules(
        experiment=name, salt=name, allocation=Allocation.from_percent(split, control="control")
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def slots(start: int, end: int, layer: str = "layer") -> Slots:
    return Slots(layer=layer, salt=layer, start=start, end=end)


def enrolled(placement: Placement) -> bool:
    return placement.reason is Reason.ASSIGNED


@given(units, buckets, buckets, st.integers(0, 100), st.integers(0, 100))
def test_growing_coverage_and_treatment_never_move_a_treated_unit(
    unit: str, one: int, other: int, percent: int, more: int
) -> None:
    small, large = sorted((one, other))
    low, high = sorted((percent, more))
    before = place(unit, rules(coverage=small, treatment=low))
    after = place(unit, rules(coverage=large, treatment=high))
    if enrolled(before):
        assert enrolled(after)
        assert after.variant in (before.variant, "treatment")


@given(units, st.tuples(buckets, buckets, buckets, buckets).map(sorted))
def test_a_growing_part_of_a_layer_only_adds_units(unit: str, edges: list[int]) -> None:
    outer, inner = slots(edges[0], edges[3]), slots(edges[1], edges[2])
    if enrolled(place(unit, rules(slots=inner))):
        assert enrolled(place(unit, rules(slots=outer)))


@given(units, st.lists(buckets, min_size=1, max_size=5, unique=True))
def test_parts_of_a_layer_exclude_one_another_and_cover_it(unit: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), N_BUCKETS]
    parts = [
        rules(f"exp-{number}", slots=slots(start, end))
        for number, (start, end) in enumerate(pairwise(edges))
    ]
    assert sum(enrolled(place(unit, part)) for part in parts) == 1
    found = choose(unit, parts)
    assert enrolled(found)
    assert found == next(p for p in (place(unit, part) for part in parts) if enrolled(p))


@given(units, st.integers(1, N_BUCKETS - 1), buckets)
def test_held_out_units_get_control_in_every_experiment(unit: str, size: int, start: int) -> None:
    holdout = Holdout(salt="h", size=size)
    found = [
        place(unit, rules(name, treatment=100, holdout=holdout, slots=part))
        for name, part in (("a", None), ("b", None), ("c", slots(start, N_BUCKETS)))
    ]
    held_out = [placement.reason is Reason.HOLDOUT for placement in found]
    assert len(set(held_out)) == 1
    assert not held_out[0] or {placement.variant for placement in found} == {"control"}
    larger = Holdout(salt="h", size=size + 1)
    assert not held_out[0] or place(unit, rules(holdout=larger)).reason is Reason.HOLDOUT


@given(units, units)
def test_only_listed_units_are_overridden_whatever_else_holds(unit: str, other: str) -> None:
    made = rules(
        treatment=0,
        overrides={unit: "treatment"},
        coverage=0,
        holdout=Holdout(salt="h", size=N_BUCKETS),
        slots=slots(0, 0),
    )
    found = place(unit, made)
    assert (found.variant, found.reason, found.assignment) == ("treatment", Reason.OVERRIDE, None)
    if other != unit:
        assert place(other, made).variant == "control"


@given(units, buckets, buckets, st.integers(1, N_BUCKETS), st.booleans())
def test_the_reason_is_the_rule_that_kept_the_unit_out(
    unit: str, coverage: int, start: int, size: int, asks: bool
) -> None:
    made = rules(
        coverage=coverage,
        slots=slots(start, N_BUCKETS),
        holdout=Holdout(salt="h", size=size),
        targeting=(Condition(attribute=CHANNEL, equals="web"),) if asks else (),
    )
    for headers in ({}, {"x-channel": "web"}):
        found = place(unit, made, Given(headers, {}))
        *passed, last = found.steps
        assert all(step.passed for step in passed)
        assert last.rule is found.reason
        assert last.passed is enrolled(found)
        assert enrolled(found) or found.variant == "control"
        assert enrolled(found) == (found.assignment is not None)


def test_shares_multiply_as_the_rules_are_independent() -> None:
    made = rules(
        treatment=30,
        coverage=6000,
        slots=slots(2000, 7000),
        holdout=Holdout(salt="h", size=1000),
    )
    share = 0.9 * 0.5 * 0.6
    assert made.enrolled_share == pytest.approx(share)
    counts = Counter(
        found.variant if enrolled(found) else found.reason
        for found in (place(unit, made) for unit in UNITS)
    )
    expected = {
        "treatment": share * 0.3,
        "control": share * 0.7,
        Reason.HOLDOUT: 0.1,
        Reason.LAYER: 0.9 * 0.5,
        Reason.COVERAGE: 0.9 * 0.5 * 0.4,
    }
    observed = [counts[key] for key in expected]
    assert chisquare(observed, [N * part for part in expected.values()]).pvalue > P_MIN


def test_places_in_a_layer_are_uniform() -> None:
    layer = slots(0, N_BUCKETS)
    counts = Counter(layer.bucket_of(unit) // 100 for unit in UNITS)
    statistic = sum((counts[part] - N / 100) ** 2 / (N / 100) for part in range(100))
    assert chi2.sf(statistic, df=99) > P_MIN


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(
            rules("a", slots=slots(0, 5000, "x")),
            rules("b", slots=slots(0, 5000, "y")),
            id="two layers",
        ),
        pytest.param(rules("a"), rules("b"), id="two experiments without a layer"),
        pytest.param(
            rules("a", coverage=5000), rules("b", coverage=5000), id="coverage of two experiments"
        ),
        pytest.param(
            rules("a", slots=slots(0, 5000, "a")),
            rules("b", coverage=5000),
            id="a layer and a coverage",
        ),
    ],
)
def test_experiments_in_different_layers_are_independent(one: Rules, other: Rules) -> None:
    def cell(made: Rules, unit: str) -> int:
        found = place(unit, made)
        return (1 + (found.variant == "treatment")) if enrolled(found) else 0

    table = Counter((cell(one, unit), cell(other, unit)) for unit in UNITS)
    rows, columns = sorted({r for r, _ in table}), sorted({c for _, c in table})
    observed = [[table[row, column] for column in columns] for row in rows]
    assert len(rows) >= 2
    assert len(columns) >= 2
    assert chi2_contingency(observed).pvalue > P_MIN


def test_variant_is_independent_of_the_place_in_the_layer_under_one_salt() -> None:
    """A layer named like the experiment, with its salt, must not decide who is treated."""
    low, high = (
        sum(
            place(unit, rules("same", slots=slots(start, start + 5000, "same"))).variant
            == "treatment"
            for unit in UNITS
        )
        for start in (0, 5000)
    )
    assert abs(low - N / 4) < 4 * (N * 3 / 16) ** 0.5
    assert abs(high - N / 4) < 4 * (N * 3 / 16) ** 0.5


def test_a_unit_in_no_part_of_the_layer_gets_control_and_belongs_to_no_experiment() -> None:
    parts = [rules("a", slots=slots(0, 1)), rules("b", slots=slots(1, 2))]
    found = choose("session-1", parts)
    assert (found.reason, found.variant, found.experiment) == (Reason.LAYER, "control", None)


def test_an_override_counts_in_any_of_the_experiments() -> None:
    parts = [
        rules("a", slots=slots(0, N_BUCKETS)),
        rules("b", slots=slots(0, 0), overrides={"qa": "treatment"}),
    ]
    found = choose("qa", parts)
    assert (found.reason, found.experiment, found.variant) == (Reason.OVERRIDE, "b", "treatment")


def test_another_process_gives_the_same_answers() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "tests.unit.experiments.assignment.answers"],
        env={"PYTHONHASHSEED": "4711", "PATH": ""},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = json.loads(printed)
    assert found == answers()
    assert len({tuple(answer) for answer in found}) == 5


CHANNEL_CASES = [
    (Condition(attribute=CHANNEL, equals="web"), {"x-channel": "web"}, True),
    (Condition(attribute=CHANNEL, equals="web"), {"x-channel": "Web"}, False),
    (Condition(attribute=CHANNEL, equals="web"), {}, False),
    (Condition(attribute=CHANNEL, any_of=frozenset({"web", "app"})), {"x-channel": "app"}, True),
    (Condition(attribute=CHANNEL, any_of=frozenset({"web", "app"})), {"x-channel": "sms"}, False),
    (Condition(attribute=CHANNEL, none_of=frozenset({"sms"})), {"x-channel": "web"}, True),
    (Condition(attribute=CHANNEL, none_of=frozenset({"sms"})), {"x-channel": "sms"}, False),
    (Condition(attribute=CHANNEL, none_of=frozenset({"sms"})), {}, False),
    (Condition(attribute=CHANNEL, none_of=frozenset({"sms"})), {"x-channel": ""}, False),
]


@pytest.mark.parametrize(("condition", "headers", "holds"), CHANNEL_CASES)
def test_text_conditions(condition: Condition, headers: dict[str, str], holds: bool) -> None:
    assert condition.holds_for(Given(headers, {})) is holds


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("3", 3.0),
        (" 2.5 ", 2.5),
        (4, 4.0),
        ("abc", None),
        ("nan", None),
        ("inf", None),
        ("1" * 400, None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_numbers_are_read_from_texts_or_are_missing(raw: object, value: float | None) -> None:
    turns = Attribute(name="turns", type=AttributeType.NUMBER, metadata="turns")
    given_one = Given({}, {"turns": raw})
    assert turns.value_of(given_one) == value
    condition = Condition(attribute=turns, at_least=2, at_most=3)
    assert condition.holds_for(given_one) is (value is not None and 2 <= value <= 3)


@pytest.mark.parametrize(
    ("raw", "value"),
    [("true", True), ("YES", True), ("1", True), ("no", False), (False, False), ("maybe", None)],
)
def test_booleans_are_read_from_texts_or_are_missing(raw: object, value: bool | None) -> None:
    beta = Attribute(name="beta", type=AttributeType.BOOLEAN, metadata="beta")
    assert beta.value_of(Given({}, {"beta": raw})) is value


def test_who_is_left_out_is_told_why() -> None:
    turns = Attribute(name="turns", type=AttributeType.NUMBER, metadata="turns")
    made = rules(
        targeting=(
            Condition(attribute=CHANNEL, any_of=frozenset({"web", "app"})),
            Condition(attribute=turns, at_least=2),
        )
    )

    def why(headers: dict[str, str], metadata: dict[str, object]) -> str:
        return place("u", made, Given(headers, metadata)).steps[-1].detail

    assert why({}, {}) == "channel is missing"
    assert why({"x-channel": "sms"}, {}) == "channel is 'sms', not one of 'app', 'web'"
    assert why({"x-channel": "web"}, {"turns": "two"}) == "turns is 'two', no number"
    assert why({"x-channel": "web"}, {"turns": "1"}) == "turns is '1', not at least 2"


def test_splits_of_a_hundredth_percent_are_exact() -> None:
    split = {"control": Decimal("99.99"), "treatment": Decimal("0.01")}
    made = replace(rules(), allocation=Allocation.from_percent(split, control="control"))
    treated = [unit for unit in UNITS if place(unit, made).variant == "treatment"]
    assert len(treated) < 10
