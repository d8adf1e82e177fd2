"""`carril exp ...` from the outside: files in, tables, JSON and exit codes out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.cli import exp_app

RUNNER = CliRunner()

MEANS = {
    "alpha": 0.05,
    "metrics": [
        {
            "name": "revenue",
            "kind": "mean",
            "effect": "relative",
            "alternative": "two-sided",
            "sequential": {"method": "asymptotic_cs", "n_star": 1000},
            "arms": {
                "control": {"n": 3000, "sum": 1396.87, "sum_squares": 52377.9767},
                "treatment": {"n": 3461, "sum": 2422.7, "sum_squares": 134698.29},
            },
        },
        {
            "name": "thumbs",
            "kind": "proportion",
            "effect": "absolute",
            "alternative": "greater",
            "sequential": None,
            "arms": {
                "control": {"n": 100, "sum": 40, "sum_squares": 40},
                "treatment": {"n": 100, "sum": 55, "sum_squares": 55},
            },
        },
    ],
}


def experiment(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "experiment": "okla-v1-v2",
        "exposures": {"control": 1300, "treatment": 1290},
        "allocation": {"control": 50, "treatment": 50},
        "runtime_days": 9,
        "plan": {"units": 2496},
        "metrics": [
            {
                "name": "satisfaction",
                "kind": "proportion",
                "role": "primary",
                "direction": "increase",
                "score": "satisfaction",
                "arms": {
                    "control": {"n": 1300, "sum": 880},
                    "treatment": {"n": 1290, "sum": 985},
                },
            },
            {
                "name": "errors",
                "kind": "proportion",
                "role": "guardrail",
                "direction": "decrease",
                "margin": 0.03,
                "sequential": {"method": "bernoulli_exact"},
                "arms": {"control": {"n": 1300, "sum": 3}, "treatment": {"n": 1290, "sum": 2}},
            },
        ],
    }
    document.update(changes)
    return document


def run(command: str, document: object, *options: str) -> Any:
    text = document if isinstance(document, str) else json.dumps(document)
    return RUNNER.invoke(exp_app, [command, "--summary", "-", *options], input=text)


def test_analyze_prints_the_documented_fields() -> None:
    result = run("analyze", MEANS, "--json")
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)["metrics"]
    assert first["effect"] == pytest.approx(0.50336, abs=5e-6)
    assert (first["ci_lower"], first["ci_upper"]) == pytest.approx((-0.55844, 1.56516), abs=5e-6)
    assert first["method"] == "asymptotic_cs"
    assert first["always_valid"]
    assert second["method"] == "chi2_newcombe"
    assert second["ci_upper"] is None
    for row in (first, second):
        assert {"effect", "ci_lower", "ci_upper", "standard_error", "p_value", "method"} <= set(row)


def test_analyze_prints_a_table_for_people() -> None:
    result = run("analyze", MEANS)
    assert result.exit_code == 0
    assert "revenue" in result.stdout


def test_analyze_corrects_the_family_when_asked() -> None:
    result = run("analyze", {**MEANS, "correction": "holm"}, "--json")
    p = [row["p_value"] for row in json.loads(result.stdout)["metrics"]]
    adjusted = [row["p_value_adjusted"] for row in json.loads(result.stdout)["metrics"]]
    assert adjusted[1] == pytest.approx(2 * p[1])


def test_metric_without_an_answer_is_named_and_exits_5() -> None:
    flat = {
        "metrics": [
            {
                "name": "flat",
                "kind": "mean",
                "arms": {
                    "control": {"n": 3, "sum": 3, "sum_squares": 3},
                    "treatment": {"n": 2, "sum": 2, "sum_squares": 2},
                },
            }
        ]
    }
    result = run("analyze", flat, "--json")
    assert result.exit_code == 5
    row = json.loads(result.stdout)["metrics"][0]
    assert row["p_value"] is None
    assert row["error"]["code"] == "ZERO_VARIANCE"
    assert "ZERO_VARIANCE" in run("analyze", flat).stdout


def changed(path: str, value: object) -> dict[str, Any]:
    document = json.loads(json.dumps(MEANS))
    target = document
    *parents, last = path.split(".")
    for part in parents:
        target = target[int(part)] if part.isdigit() else target[part]
    target[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (changed("metrics.0.arms.control.n", -1), "greater than or equal to 0 (got -1)"),
        (changed("metrics.0.arms.control.sum_squares", 1.0), "no data has that"),
        (changed("metrics.0.arms.control.typo", 1.0), "typo"),
        (changed("metrics.0.kind", "median"), "'mean', 'proportion', 'ratio', 'quantile'"),
        (changed("metrics.1.arms.control.sum", 101), "sum_squares is 40.0 but sum is 101"),
        (changed("metrics.0.sequential.method", "magic"), "asymptotic_cs"),
        (changed("metrics.1.name", "revenue"), "more than once"),
        (changed("alpha", 0), "greater than 0"),
        (changed("schema_version", 2), "schema_version"),
        (changed("metrics.0.arms.control.sum", float("nan")), "finite number (got nan)"),
        (changed("metrics.0.arms.control.n", True), "valid integer (got True)"),
        (changed("metrics.0.arms.control.sum", "12"), "valid number (got '12')"),
        (changed("metrics.1.alpha", 0.7), "below 0.5 for a one-sided"),
        (
            changed(
                "metrics.0.sequential",
                {"method": "group_sequential", "fractions": [0.5, 0.4]},
            ),
            "strictly increasing",
        ),
        (changed("metrics.0.sequential", {"method": "group_sequential"}), "fractions are needed"),
        (changed("metrics.0.arms.control.sum", 1e200), "overflow; change the unit"),
        ("{", "Invalid JSON"),
    ],
)
def test_bad_summary_is_refused_with_the_value(document: object, said: str) -> None:
    result = run("analyze", document, "--json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    result = RUNNER.invoke(exp_app, ["analyze", "--summary", str(tmp_path / "none.json")])
    assert result.exit_code == 2
    assert "cannot read" in result.stderr


def test_decide_promotes_writes_evidence_and_replays(tmp_path: Path) -> None:
    target = tmp_path / "evidence.json"
    made = run("decide", experiment(), "--evidence", str(target), "--json")
    assert made.exit_code == 0
    assert json.loads(made.stdout)["verdict"] == "PROMOTE_B"
    again = RUNNER.invoke(exp_app, ["decide", "--replay", str(target), "--json"])
    assert again.exit_code == 0
    assert again.stdout == made.stdout
    assert list(tmp_path.iterdir()) == [target]


def test_replay_of_altered_evidence_fails(tmp_path: Path) -> None:
    target = tmp_path / "evidence.json"
    run("decide", experiment(), "--evidence", str(target))
    text = target.read_text(encoding="utf-8")
    target.write_text(text.replace('"runtime_days": 9', '"runtime_days": 8'), encoding="utf-8")
    result = RUNNER.invoke(exp_app, ["decide", "--replay", str(target)])
    assert result.exit_code == 1
    assert "differs" in result.stderr


@pytest.mark.parametrize(
    ("changes", "exit_code", "said"),
    [
        ({"runtime_days": 1}, 5, "RUNTIME_TOO_SHORT"),
        ({"exposures": {"control": 1300, "treatment": 900}}, 1, "SAMPLE_RATIO_MISMATCH"),
        ({"policy": {"min_runtime_days": 14}}, 5, "RUNTIME_TOO_SHORT"),
        ({"health": {"conflicts": ["salt changed"]}}, 1, "salt changed"),
    ],
)
def test_decide_says_why_not(changes: dict[str, Any], exit_code: int, said: str) -> None:
    result = run("decide", experiment(**changes))
    assert result.exit_code == exit_code
    assert said in result.stdout


def test_breached_guardrail_keeps_a_from_the_first_requests() -> None:
    document = experiment(
        runtime_days=0.01, exposures={"control": 40, "treatment": 40}, plan={"units": 2496}
    )
    document["metrics"][0]["arms"] = {
        "control": {"n": 40, "sum": 28},
        "treatment": {"n": 40, "sum": 28},
    }
    document["metrics"][1]["arms"] = {
        "control": {"n": 40, "sum": 0},
        "treatment": {"n": 40, "sum": 31},
    }
    result = run("decide", document)
    assert result.exit_code == 1
    assert "KEEP_A" in result.stdout
    assert "GUARDRAIL_BREACHED" in result.stdout


@pytest.mark.parametrize(
    ("position", "changes", "said"),
    [
        (1, {"margin": None}, "needs a margin"),
        (0, {"alternative": "less"}, "bad direction"),
        (1, {"alternative": "greater"}, "both sides"),
        (0, {"role": "boss"}, "'primary'"),
    ],
)
def test_metric_that_does_not_fit_its_role_is_refused(
    position: int, changes: dict[str, Any], said: str
) -> None:
    document = experiment()
    document["metrics"][position].update(changes)
    result = run("decide", document)
    assert result.exit_code == 2
    assert said in result.stderr


def test_unknown_policy_field_is_refused() -> None:
    result = run("decide", experiment(policy={"min_runtime": 3}))
    assert result.exit_code == 2
    assert "min_runtime" in result.stderr


def test_decide_needs_one_source() -> None:
    assert RUNNER.invoke(exp_app, ["decide"]).exit_code == 2


def test_power_plans_both_ways_of_looking() -> None:
    options = ["--rate", "0.7", "--mde", "0.05", "--per-day", "200", "--collected", "500"]
    result = RUNNER.invoke(exp_app, ["power", *options, "--json"])
    fixed, sequential = json.loads(result.stdout)["plans"]
    assert fixed["units"] == 2502
    assert fixed["days_left"] == 11
    assert 4700 < sequential["units"] < 4900
    assert "Plan" in RUNNER.invoke(exp_app, ["power", *options]).stdout


def test_power_inverts() -> None:
    result = RUNNER.invoke(exp_app, ["power", "--rate", "0.7", "--units", "2502", "--json"])
    assert json.loads(result.stdout)["plans"][0]["effect"] == pytest.approx(0.05, abs=2e-4)


def test_power_of_a_relative_mean_and_a_split() -> None:
    options = ["--kind", "mean", "--mean", "3", "--variance", "1.44", "--mde", "0.05"]
    even = RUNNER.invoke(exp_app, ["power", *options, "--relative", "--json"])
    uneven = RUNNER.invoke(
        exp_app, ["power", *options, "--relative", "--treatment-percent", "10", "--json"]
    )
    units = [json.loads(result.stdout)["plans"][0]["units"] for result in (even, uneven)]
    assert units[1] > 2.5 * units[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "either --mde"),
        (["--mde", "0.05"], "--rate"),
        (["--rate", "1.2", "--mde", "0.05"], "rate is 1.2"),
        (["--rate", "0.7", "--mde", "0.05", "--power", "1.5"], "power is 1.5"),
        (["--kind", "mean", "--mde", "1"], "--variance"),
    ],
)
def test_power_refuses_half_a_plan(options: list[str], said: str) -> None:
    result = RUNNER.invoke(exp_app, ["power", *options])
    assert result.exit_code == 2
    assert said in result.stderr


def test_simulate_shows_the_default_beside_the_habits() -> None:
    options = ["--runs", "200", "--sessions", "600"]
    result = RUNNER.invoke(exp_app, ["simulate", *options, "--json"])
    assert result.exit_code == 0
    methods = json.loads(result.stdout)["methods"]
    assert methods["always_valid_peeking"]["false_positives"] < 0.1
    assert methods["per_request_peeking"]["false_positives"] > 0.2
    assert "A/A" in RUNNER.invoke(exp_app, ["simulate", *options]).stdout
    assert RUNNER.invoke(exp_app, ["simulate", "--rate", "2"]).exit_code == 2
    partly = ["--coverage", "40", "--holdout", "10", "--hash", "growthbook_v2"]
    assert RUNNER.invoke(exp_app, ["simulate", *options, *partly]).exit_code == 0


def test_simulate_plans_the_size_of_an_effect_and_shows_its_power() -> None:
    options = ["--runs", "300", "--effect", "0.1"]
    result = RUNNER.invoke(exp_app, ["simulate", *options, "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert 400 < document["sessions"] < 800
    assert document["methods"]["always_valid_peeking"]["power"] >= 0.75
    assert "A/B (0.7 and 0.8)" in RUNNER.invoke(exp_app, ["simulate", *options]).stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--effect", "0.4"], "rate + effect is 1.1"),
        (["--effect", "0.1", "--power", "1"], "power is 1.0"),
        (["--sessions", "400", "--treatment-percent", "0.1"], "leaves an arm with 0"),
        (["--coverage", "0"], "coverage is 0.0; allowed: 1 to 100"),
        (["--holdout", "100"], "holdout is 100.0; allowed: 0 to 99"),
        (["--hash", "md5"], "growthbook_v2"),
    ],
)
def test_simulate_refuses_what_cannot_be_simulated(options: list[str], said: str) -> None:
    result = RUNNER.invoke(exp_app, ["simulate", *options])
    assert result.exit_code == 2
    assert said in result.stderr


def test_importing_the_commands_loads_no_numerical_library() -> None:
    code = (
        "import sys, experiments.cli; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'scipy', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
