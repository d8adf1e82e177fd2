"""The aggregation in SQL, against numbers added up by hand."""

import random
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.log import Scope, open_log
from experiments.analysis.measures import OUTCOME_MEASURES
from experiments.analysis.quantiles import latency_quantiles
from experiments.analysis.sums import Cell, Clock, Moments, aggregate, multi_exposed
from experiments.analysis.votes import aggregate_votes
from experiments.events.records import Event
from experiments.stats.quantile import QuantileStats
from tests.unit.experiments.analysis.sessions import DAY, START, write
from tests.unit.experiments.events.builders import exposure, feedback, outcome

SCOPE = Scope(
    experiment="exp",
    version=1,
    control="stable",
    treatment="candidate",
    config_hashes=("0123456789ab",),
)
CLOCK = Clock(now=START + 100 * DAY, settled=START + 50 * DAY)
NAMES = ("errors", "requests", "latency", "completion_tokens", "confidence")


def cells(path: Path) -> list[Cell]:
    with open_log(path) as log:
        return aggregate(log, SCOPE, [OUTCOME_MEASURES[name] for name in NAMES], CLOCK)


def one_session(unit: str, variant: str, *outcomes: dict[str, Any]) -> list[Event]:
    events: list[Event] = [exposure(unit, variant=variant, exposed_at=START)]
    for number, fields in enumerate(outcomes):
        base = {"unit": unit, "variant": variant, "finished_at": START + 1}
        events.append(outcome(f"{unit}-{number}", **(base | fields)))
    return events


def test_sums_are_those_of_sessions_and_cached_answers_have_no_latency_and_no_cost(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "e.db",
        [
            *one_session(
                "u1",
                "stable",
                {"duration_s": 0.5, "completion_tokens": 10, "confidence": 0.9},
                {"duration_s": 1.5, "completion_tokens": 30, "confidence": 0.7},
                {"duration_s": 0.001, "completion_tokens": 99, "cache": "hit"},
                {"duration_s": 0.002, "completion_tokens": 99, "cache": "join"},
            ),
            *one_session("u2", "stable", {"duration_s": 3.0, "completion_tokens": 5}),
            *one_session("u3", "stable", {"status": "error", "duration_s": 9.0}),
        ],
    )
    (cell,) = cells(path)
    assert not cell.treatment
    assert cell.clean
    assert cell.key == int(START // DAY)
    assert cell.counts._asdict() == {
        "units": 3,
        "missing": 0,
        "future": 0,
        "outcomes": 6,
        "errors": 1,
        "aborts": 0,
        "shared": 2,
        "foreign": 0,
        "early": 0,
        "impossible": 0,
    }
    # Session sums of seconds: 2.0 over 2 answers, 3.0 over 1. The failed one has no fresh answer.
    assert cell.moments["latency"] == Moments(
        n=2, positive=2, x=5.0, xx=13.0, y=3.0, yy=5.0, xy=7.0
    )
    assert cell.moments["completion_tokens"] == Moments(
        n=2, positive=2, x=45, xx=1625, y=3, yy=5, xy=85
    )
    assert cell.moments["errors"].n == 3
    assert cell.moments["errors"].positive == 1
    assert cell.moments["requests"] == Moments(n=3, positive=3, x=6, xx=18, y=6, yy=18, xy=18)
    assert cell.moments["confidence"].x == pytest.approx(1.6)
    assert cell.moments["confidence"].n == 1


def test_pinned_requests_and_other_versions_are_not_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.db",
        [
            *one_session("u1", "stable", {"duration_s": 0.5}),
            outcome("pin", unit=None, experiment=None, version=None, exposure="pinned"),
            outcome("old", unit="u1", version=2),
            exposure("u1", version=2),
            exposure("u9", config_hash="another split"),
        ],
    )
    (cell,) = cells(path)
    assert cell.counts.units == 1
    assert cell.counts.outcomes == 1


def test_a_session_in_two_arms_or_served_by_another_variant_is_not_per_protocol(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "e.db",
        [
            *one_session("u1", "stable", {}),
            *one_session("u2", "stable", {}, {"variant": "candidate"}),
            *one_session("u3", "stable", {}),
            exposure("u3", variant="candidate"),
        ],
    )
    by_population = {cell.clean: cell.counts for cell in cells(path)}
    assert by_population[True].units == 1
    assert by_population[False].units == 2
    assert by_population[False].foreign == 1
    with open_log(path) as log:
        assert multi_exposed(log, SCOPE) == 1


def test_missing_outcomes_and_wrong_clocks_are_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.db",
        [
            exposure("gone", exposed_at=START),
            exposure("fresh", exposed_at=START + 51 * DAY),
            exposure("future", exposed_at=START + 200 * DAY),
            *one_session("early", "stable", {"finished_at": START - 100}),
            *one_session("odd", "stable", {"duration_s": -1.0}),
        ],
    )
    total = cells(path)
    counts = [sum(getattr(c.counts, name) for c in total) for name in ("units", "missing")]
    assert counts == [5, 1]
    assert sum(c.counts.future for c in total) == 1
    assert sum(c.counts.early for c in total) == 1
    assert sum(c.counts.impossible for c in total) == 1


def test_the_last_vote_counts_and_a_session_counts_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.db",
        [
            *one_session("u1", "stable", {}, {}),
            *one_session("u2", "candidate", {}),
            feedback("f1", target="u1-0", value=0.0, received_at=START + 1),
            feedback("f2", target="u1-0", value=1.0, received_at=START + 2),
            feedback("f3", target="u1-1", value=0.0),
            feedback("f4", target="u2-0", value=1.0, level="episode"),  # no session of that name
            feedback("f5", target="u2", value=1.0, level="episode"),
        ],
    )
    with open_log(path) as log:
        control, treatment = aggregate_votes(log, SCOPE, "thumbs")
    assert (control.treatment, treatment.treatment) == (False, True)
    assert control.moments["thumbs"] == Moments(n=1, positive=1, x=0.5, xx=0.25, y=1, yy=1, xy=0.5)
    assert treatment.moments["thumbs"].n == 1
    assert treatment.moments["thumbs"].x == 1.0


def test_quantiles_are_exact_order_statistics_with_their_clusters(tmp_path: Path) -> None:
    draw = random.Random(7)
    events: list[Event] = []
    values: list[float] = []
    sessions: list[str] = []
    for number in range(150):
        unit = f"u{number}"
        took = [draw.lognormvariate(-1, 0.6) for _ in range(draw.randint(1, 5))]
        events += one_session(unit, "stable", *({"duration_s": t} for t in took))
        events.append(outcome(f"{unit}-hit", unit=unit, cache="hit", duration_s=0.001))
        values += took
        sessions += [unit] * len(took)
    path = write(tmp_path / "e.db", events)
    with open_log(path) as log:
        found = latency_quantiles(log, SCOPE, "stable", [0.5, 0.95])
    for level, arm in found.items():
        expected = QuantileStats.from_values(values, level, sessions=sessions)
        stats = arm.arm_at(level)
        assert (stats.lower, stats.value, stats.upper) == (
            expected.lower,
            expected.value,
            expected.upper,
        )
        assert stats.variance == pytest.approx(expected.variance)
        assert stats.n == 150
