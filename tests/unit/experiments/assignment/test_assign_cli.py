"""`carril exp assign`: what the gateway decides, said in a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from experiments.cli import exp_app
from serve_app.config import parse_gateway_config
from serve_app.gateway.policy import Policy
from serve_app.gateway.unit import Unit

CONFIG: dict[str, Any] = {
    "models": {
        "okla-chat": {"experiments": ["style", "price"]},
        "okla-chat:text": {"experiments": ["style", "price"], "content": "text"},
        "okla-search": {"experiment": "search"},
        "fixed": {"variant": "stable"},
    },
    "variants": {name: {"app": f"okla-{name}"} for name in ("stable", "candidate", "cheap")},
    "layers": {"chat": {"salt": "chat-1"}},
    "holdout": {"percent": 5, "salt": "holdout-1"},
    "attributes": {"channel": {"type": "text", "header": "X-Channel", "values": ["web", "sms"]}},
    "experiments": {
        "style": {
            "salt": "style",
            "control": "stable",
            "allocation": {"stable": 50, "candidate": 50},
            "layer": "chat",
            "slots": [0, 60],
            "targeting": [{"attribute": "channel", "any_of": ["web"]}],
        },
        "price": {
            "salt": "price",
            "control": "stable",
            "allocation": {"stable": 50, "cheap": 50},
            "layer": "chat",
            "slots": [60, 90],
            "coverage": 50,
            "overrides": {"qa": "cheap"},
        },
        "search": {
            "salt": "search",
            "control": "stable",
            "allocation": {"stable": 50, "candidate": 50},
            "hash": "growthbook_v2",
            "coverage": 80,
        },
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A Serve config with one gateway."""
    path = tmp_path / "serve_config.yaml"
    gateway = {"name": "gateway", "deployments": [{"name": "gateway", "user_config": CONFIG}]}
    path.write_text(yaml.safe_dump({"applications": [gateway]}), encoding="utf-8")
    return path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(exp_app, ["assign", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def placements(config: Path, unit: str, *options: str) -> dict[str, dict[str, Any]]:
    """Return what a unit gets by served model."""
    document = json.loads(run("--unit", unit, "--config", str(config), "--json", *options))
    assert document["unit"] == unit
    return {model: row for row in document["placements"] for model in row["served_models"]}


def test_it_says_what_the_gateway_decides(config: Path) -> None:
    policy = Policy(parse_gateway_config(CONFIG))
    reasons = set()
    for number in range(40):
        found = placements(config, f"u{number}")
        for model in ("okla-chat", "okla-chat:text", "okla-search"):
            decision = policy.decide(model, Unit(f"u{number}", "user"))
            assert found[model]["variant"] == decision.variant
            assert found[model]["reason"] == decision.reason
            reasons.add(decision.reason)
            if decision.assignment is not None:
                assert found[model]["experiment"] == decision.experiment
                assert found[model]["probability"] == decision.assignment.probability
                assert found[model]["bucket"] == decision.assignment.bucket
    assert reasons == {"assigned", "holdout", "layer", "targeting", "coverage"}


def test_attributes_are_given_as_the_request_has_them(config: Path) -> None:
    unit = next(
        f"u{n}"
        for n in range(100)
        if placements(config, f"u{n}")["okla-chat"]["reason"] == "targeting"
    )
    plain = placements(config, unit)["okla-chat"]
    assert plain["rules"][2]["detail"] == "channel is missing"
    sms = placements(config, unit, "--header", "x-channel: sms")["okla-chat"]
    assert sms["rules"][2]["detail"] == "channel is 'sms', not one of 'web'"
    web = placements(config, unit, "--header", "X-Channel: web")["okla-chat"]
    assert (web["reason"], web["experiment"], web["probability"]) == ("assigned", "style", 0.5)


def test_an_override_is_told_and_others_are_not_looked_at(config: Path) -> None:
    row = placements(config, "qa")["okla-chat"]
    assert (row["variant"], row["reason"], row["experiment"]) == ("cheap", "override", "price")
    assert row["probability"] is None
    assert [step["rule"] for step in row["rules"]] == ["override"]


def test_the_table_has_every_rule_and_its_reason(config: Path) -> None:
    printed = run("search", "--unit", "u1", "--config", str(config))
    assert "okla-search: " in printed
    assert "coverage" in printed
    assert "80 %" in printed
    assert "okla-chat" not in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--config", "{config}"], "--unit SESSION", id="no unit"),
        pytest.param(
            ["gone", "--unit", "u", "--config", "{config}"], "price, search, style", id="unknown"
        ),
        pytest.param(
            ["--unit", "u", "--config", "{config}", "--header", "x-channel"],
            "--header 'x-channel: web'",
            id="header without value",
        ),
        pytest.param(
            ["--unit", "u", "--config", "{config}", "--metadata", "=x"],
            "--metadata country=do",
            id="metadata without key",
        ),
        pytest.param(["--unit", "u", "--config", "/gone.yaml"], "/gone.yaml", id="no file"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_is_allowed(
    arguments: list[str], says: str, config: Path
) -> None:
    assert says in run(*(a.replace("{config}", str(config)) for a in arguments), code=2)


def test_an_invalid_configuration_is_refused_with_its_fault(tmp_path: Path) -> None:
    broken = CONFIG | {"layers": {}}
    path = tmp_path / "user_config.yaml"
    path.write_text(yaml.safe_dump(broken), encoding="utf-8")
    assert "unknown layer 'chat'" in run("--unit", "u", "--config", str(path), code=2)


def test_without_any_configuration_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    assert "--config FILE" in run("--unit", "u", code=2)
