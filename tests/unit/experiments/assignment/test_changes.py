"""Who moves when rules change: the arithmetic against units that are counted."""

from collections import Counter

import pytest

from experiments.assignment import Hash
from experiments.assignment.changes import moves
from experiments.assignment.rules import Holdout, Rules, place
from tests.unit.experiments.assignment.test_rules import UNITS, N, rules, slots

CASES = {
    "a ramp": (rules(treatment=10), rules(treatment=50)),
    "more coverage": (rules(coverage=2000), rules(coverage=7000)),
    "less coverage and a ramp": (
        rules(coverage=9000, treatment=20),
        rules(coverage=4000, treatment=60),
    ),
    "a holdout begins": (rules(), rules(holdout=Holdout(salt="h", size=2000))),
    "another holdout": (
        rules(holdout=Holdout(salt="h", size=2000)),
        rules(holdout=Holdout(salt="i", size=3000)),
    ),
    "a part of a layer grows": (rules(slots=slots(0, 4000)), rules(slots=slots(0, 6000))),
    "a part of a layer shifts": (rules(slots=slots(0, 5000)), rules(slots=slots(3000, 8000))),
    "another part": (rules(slots=slots(0, 3000)), rules(slots=slots(6000, 9000))),
    "another layer": (rules(slots=slots(0, 5000, "x")), rules(slots=slots(0, 5000, "y"))),
    "into a layer": (rules(), rules(slots=slots(0, 5000))),
    "GrowthBook's coverage": (
        rules(hash=Hash.GROWTHBOOK_V2, coverage=2000),
        rules(hash=Hash.GROWTHBOOK_V2, coverage=8000),
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES.keys())
def test_the_share_told_is_the_share_that_moves(before: Rules, after: Rules) -> None:
    counted = Counter((place(unit, before).variant, place(unit, after).variant) for unit in UNITS)
    told = moves(before, after)
    for old in ("control", "treatment"):
        for new in ("control", "treatment"):
            if old != new:
                share = told.get((old, new), 0.0)
                # 4.5 sigma: 22 comparisons, none of which may fail by chance.
                slack = 4.5 * (N * share * (1 - share)) ** 0.5
                assert abs(counted[old, new] - N * share) <= slack, (old, new, share)


def test_nothing_moves_where_nothing_changes() -> None:
    made = rules(coverage=3000, slots=slots(0, 5000), holdout=Holdout(salt="h", size=500))
    assert moves(made, made) == {}
