"""What is told to be worse than in the baseline, and how it is put."""

from dataclasses import asdict, replace

import pytest

from experiments.drift.performance import Performance, degradations
from experiments.drift.report import show_degradation

USUAL = Performance(
    requests=1000,
    requests_per_hour=60.0,
    error_rate=0.004,
    latency_mean_s=1.0,
    latency_std_s=0.5,
    latency_p50_s=0.8,
    latency_p95_s=2.0,
    latency_p99_s=3.0,
)


@pytest.mark.parametrize(
    ("reference", "changes", "said"),
    [
        ({}, {"latency_p95_s": 2.5}, ["latency_p95_s is 25% worse: 2 -> 2.5"]),
        ({}, {"latency_p95_s": 2.3, "latency_p99_s": 1.0}, []),
        ({}, {"requests_per_hour": 30.0}, ["requests_per_hour is 50% worse: 60 -> 30"]),
        ({}, {"requests_per_hour": 600.0}, []),
        # A fifth of one percentage point is what counts for rates below one per cent.
        ({}, {"error_rate": 0.0059}, []),
        ({}, {"error_rate": 0.0065}, ["error_rate is 62% worse: 0.004 -> 0.0065"]),
        ({"error_rate": 0.0}, {"error_rate": 0.01}, ["error_rate is worse: 0 -> 0.01"]),
        ({"error_rate": 0.1}, {"error_rate": 0.115}, []),
        ({}, {"error_rate": None, "latency_mean_s": None}, []),
    ],
)
def test_only_what_is_worse_by_more_than_a_fifth_is_told(
    reference: dict[str, float], changes: dict[str, float | None], said: list[str]
) -> None:
    before = replace(USUAL, **reference)
    found = degradations(before, replace(before, **changes), 0.2)  # type: ignore[arg-type]
    assert [show_degradation(asdict(item)) for item in found] == said
