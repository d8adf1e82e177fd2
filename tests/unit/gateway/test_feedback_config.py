"""Configuration of feedback and capture: what is refused, and what the shipped file says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.feedback.metrics import BUILT_IN
from serve_app.config import load_yaml, parse_gateway_config
from serve_app.errors import ConfigError
from tests.unit.gateway.builders import gateway_config, raw_config

ROOT = Path(__file__).parents[3]


def metric(**fields: Any) -> dict[str, Any]:
    return {"feedback": {"metrics": {"m": fields}}}


REFUSED = [
    (metric(), "feedback.metrics.m.type"),
    (metric(type="stars"), "'stars'"),
    (metric(type="boolean", min=0), "min and max are for float and integer"),
    (metric(type="float", min=1, max=1), "min 1 is not below max 1"),
    (metric(type="float", min=float("nan")), "finite number"),
    (metric(type="category"), "categories belong to"),
    (metric(type="float", categories=["a"]), "categories belong to"),
    (metric(type="category", categories=["a", "a"]), "names one twice"),
    (metric(type="comment", direction="increase"), "a comment has no direction"),
    (metric(type="boolean", level="user"), "'user'"),
    (metric(type="boolean", optimize="max"), "optimize"),
    ({"feedback": {"metrics": {"thumbs": {"type": "boolean"}}}}, "built in"),
    ({"feedback": {"metrics": {"a b": {"type": "boolean"}}}}, "no valid name"),
    ({"feedback": {"max_age_days": 0}}, "max_age_days"),
    ({"capture": {"text": "everything"}}, "'everything'"),
    ({"capture": {"text": True}}, "capture.text"),
    ({"capture": {"sample_percent": 101}}, "sample_percent"),
    ({"capture": {"retention_days": 0}}, "retention_days"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_impossible_declarations_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_gateway_config(raw_config(**changes))
    assert words in str(refused.value)


def test_built_in_metrics_are_declared_without_a_word() -> None:
    assert gateway_config().feedback.specs == dict(BUILT_IN)


@pytest.mark.parametrize("text", ["off", '"off"'])
def test_off_may_be_written_without_quotes(text: str) -> None:
    raw = load_yaml(f"capture: {{text: {text}}}")
    assert isinstance(raw, dict)
    assert gateway_config(**raw).capture.text == "off"


def test_shipped_configuration_declares_a_session_metric_and_keeps_no_text() -> None:
    shipped = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    [gateway] = [app for app in shipped["applications"] if app["name"] == "gateway"]
    config = parse_gateway_config(gateway["deployments"][0]["user_config"])
    assert config.feedback.specs["lead_captured"].level == "episode"
    assert config.capture.text == "off"
