"""Sums that no data has, or that have lost what is asked of them, are refused, not a number."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from experiments.stats.errors import InvalidStatistic, ZeroVariance
from experiments.stats.moments import MeanStats
from experiments.stats.ratio import RatioStats

YES = {"n": 100, "sum": 50, "sum_squares": 50}
RATIO = YES | {"denominator_sum": 100, "denominator_sum_squares": 150, "sum_products": 55}


def analyse(tmp_path: Path, **metric: Any) -> int:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"metrics": [{"name": "m", **metric}]}), encoding="utf-8")
    return run(["exp", "analyze", "--summary", str(path), "--json"])


@pytest.mark.parametrize(
    ("kind", "control", "treatment"),
    [
        pytest.param("ratio", RATIO | {"sum_products": 500}, RATIO, id="ratio"),
        pytest.param(
            "mean",
            YES
            | {
                "covariate_sum": 50,
                "covariate_sum_squares": 50,
                "covariate_sum_products": 5000,
            },
            YES | {"covariate_sum": 50, "covariate_sum_squares": 50, "covariate_sum_products": 30},
            id="cuped",
        ),
    ],
)
def test_a_correlation_beyond_one_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    control: dict[str, float],
    treatment: dict[str, float],
) -> None:
    assert analyse(tmp_path, kind=kind, arms={"control": control, "treatment": treatment}) == 2
    assert "a correlation beyond 1: no data has that" in capsys.readouterr().err


def test_numerators_proportional_to_denominators_are_data() -> None:
    stats = RatioStats.from_pairs((0.1 * n, 0.3 * n) for n in range(1, 500))
    assert stats.variance == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(InvalidStatistic, match="beyond 1"):
        RatioStats(
            n=stats.n,
            sum=stats.sum,
            sum_squares=stats.sum_squares,
            denominator_sum=stats.denominator_sum,
            denominator_sum_squares=stats.denominator_sum_squares,
            sum_products=stats.sum_products * 1.001,
        )


@pytest.mark.parametrize("mean", [1e7, 1e9])
def test_a_spread_that_the_sums_have_lost_is_no_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mean: float
) -> None:
    """With 1e9 the standard error came out as 0.157 instead of 0.045."""
    arms = {
        arm: {"n": 1000, "mean": mean + shift, "variance": 1.0}
        for arm, shift in (("control", 0.0), ("treatment", 0.2))
    }
    assert analyse(tmp_path, kind="mean", arms=arms) == 5
    (row,) = json.loads(capsys.readouterr().out)["metrics"]
    assert (row["error"]["code"], row["standard_error"]) == ("ZERO_VARIANCE", None)


def test_a_spread_far_below_the_mean_is_kept_where_the_sums_have_it() -> None:
    assert MeanStats.from_values([1e5 + 0.1, 1e5, 1e5 - 0.1]).variance == pytest.approx(
        0.01, rel=1e-3
    )
    assert MeanStats.from_values([0.1] * 10).variance == 0.0
    with pytest.raises(ZeroVariance, match="subtract a constant"):
        _ = MeanStats.from_values([1e7 + 0.5 * (n % 2) for n in range(100)]).variance


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ([n / 500 for n in range(1, 501)], "allowed: 1 to 100"),
        ([0.5, 0.5 + 1e-7, 1.0], "are closer than 0.001; leave one out"),
    ],
)
def test_looks_that_would_take_minutes_to_plan_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fractions: list[float], message: str
) -> None:
    began_s = time.monotonic()
    sequential = {"method": "group_sequential", "fractions": fractions}
    arms = {"control": {"n": 1000, "sum": 100}, "treatment": {"n": 1000, "sum": 130}}
    assert analyse(tmp_path, kind="proportion", arms=arms, sequential=sequential) == 2
    assert message in capsys.readouterr().err
    assert time.monotonic() - began_s < 20
