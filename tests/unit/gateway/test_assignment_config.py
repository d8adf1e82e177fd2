"""Layers, holdout, attributes and who takes part: refused where they contradict themselves."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config import parse_gateway_config
from serve_app.errors import ConfigError
from tests.unit.gateway.builders import RAW_CONFIG, gateway_config, raw_config

EXPERIMENT = RAW_CONFIG["experiments"]["okla-v1-v2"]
ATTRIBUTES = {
    "channel": {"type": "text", "header": "X-Channel", "values": ["web", "sms"]},
    "turns": {"type": "number", "metadata": "turns"},
    "beta": {"type": "boolean", "metadata": "beta"},
}


def one(**changes: Any) -> dict[str, Any]:
    """Return a configuration with a changed experiment."""
    return raw_config(
        attributes=ATTRIBUTES,
        layers={"chat": {"salt": "chat-1"}},
        experiments={"okla-v1-v2": EXPERIMENT | changes},
    )


def two(first: dict[str, Any], second: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a configuration with two experiments of one served model."""
    return raw_config(
        models={"okla-chat": {"experiments": ["one", "two"]}},
        layers={"chat": {"salt": "chat-1"}, "other": {"salt": "other-1"}},
        experiments={
            "one": EXPERIMENT | {"salt": "one"} | first,
            "two": EXPERIMENT | {"salt": "two"} | second,
        },
        **changes,
    )


LOW: dict[str, Any] = {"layer": "chat", "slots": [0, 50]}
HIGH: dict[str, Any] = {"layer": "chat", "slots": [50, 100]}


def asks(**condition: Any) -> dict[str, Any]:
    return one(targeting=[condition])


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(two(LOW, HIGH), id="two experiments in a layer"),
        pytest.param(
            two(LOW, HIGH | {"slots": [50.01, 99.99]}), id="a layer with gaps of a hundredth"
        ),
        pytest.param(one(coverage=0), id="nobody takes part for now"),
        pytest.param(one(coverage=12.5, hash="growthbook_v2"), id="part of GrowthBook's"),
        pytest.param(raw_config(holdout={"percent": 0.5, "salt": "h"}), id="holdout"),
        pytest.param(asks(attribute="channel", any_of=["web"], none_of=["sms"]), id="texts"),
        pytest.param(asks(attribute="turns", at_least=1, at_most=2.5), id="numbers"),
        pytest.param(asks(attribute="turns", any_of=[1, 2.0]), id="some numbers"),
        pytest.param(asks(attribute="beta", equals=False), id="booleans"),
        pytest.param(one(overrides={"qa-1": "candidate", "acme/qa": "stable"}), id="overrides"),
    ],
)
def test_valid(raw: dict[str, Any]) -> None:
    assert parse_gateway_config(raw).rules


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        pytest.param(one(coverage=101), ["coverage", "100", "101"], id="coverage above 100"),
        pytest.param(one(coverage=-1), ["coverage", "-1"], id="negative coverage"),
        pytest.param(one(coverage=33.333), ["coverage", "0.01", "33.333"], id="coverage too fine"),
        pytest.param(one(coverage=float("nan")), ["coverage"], id="coverage NaN"),
        pytest.param(one(hash="md5"), ["hash", "'growthbook_v2'", "'md5'"], id="unknown hash"),
        pytest.param(one(layer="chat"), ["layer and slots", "both"], id="layer without slots"),
        pytest.param(one(slots=[0, 50]), ["layer and slots", "both"], id="slots without layer"),
        pytest.param(
            one(layer="gone", slots=[0, 50]),
            ["experiments.okla-v1-v2.layer", "'gone'", "['chat']"],
            id="unknown layer",
        ),
        pytest.param(
            one(layer="chat", slots=[50, 50]), ["from 50 to 50", "below"], id="empty slots"
        ),
        pytest.param(one(layer="chat", slots=[60, 20]), ["from 60 to 20"], id="slots backwards"),
        pytest.param(one(layer="chat", slots=[0, 101]), ["slots.1", "101"], id="slots above 100"),
        pytest.param(
            two(LOW, HIGH | {"slots": [40, 100]}),
            ["experiments.two.slots", "40 to 50 %", "'one'", "must not overlap"],
            id="overlap",
        ),
        pytest.param(
            two(LOW, {}),
            ["models.okla-chat.experiments", "'one' and 'two'", "a layer in common"],
            id="two experiments without a layer",
        ),
        pytest.param(
            two(LOW, {"layer": "other", "slots": [50, 100]}),
            ["models.okla-chat.experiments", "a layer in common"],
            id="two experiments in two layers",
        ),
        pytest.param(
            two(LOW, HIGH | {"control": "candidate"}),
            ["controls", "'stable'", "'candidate'", "the same"],
            id="two controls",
        ),
        pytest.param(
            two(LOW | {"overrides": {"qa": "stable"}}, HIGH | {"overrides": {"qa": "candidate"}}),
            ["models.okla-chat.experiments", "both override 'qa'"],
            id="one unit overridden in two experiments",
        ),
        pytest.param(
            two(LOW, HIGH | {"salt": "one"}),
            ["experiments.two.salt", "'one'", "its own salt"],
            id="one salt for two experiments",
        ),
        pytest.param(
            raw_config(layers={"a": {"salt": "s"}, "b": {"salt": "s"}}),
            ["layers.b.salt", "'s'", "'a'"],
            id="one salt for two layers",
        ),
        pytest.param(
            raw_config(models={"m": {"experiments": ["okla-v1-v2", "gone"]}}),
            ["models.m.experiments", "'gone'", "okla-v1-v2"],
            id="unknown experiment of several",
        ),
        pytest.param(
            raw_config(models={"m": {"experiments": ["okla-v1-v2", "okla-v1-v2"]}}),
            ["models.m.experiments", "named twice"],
            id="experiment named twice",
        ),
        pytest.param(
            raw_config(models={"m": {"experiments": []}}), ["models.m.experiments"], id="none"
        ),
        pytest.param(
            raw_config(models={"m": {"experiments": ["okla-v1-v2"], "variant": "stable"}}),
            ["models.m", "exactly one"],
            id="experiments and a variant",
        ),
        pytest.param(
            raw_config(holdout={"percent": 0, "salt": "h"}), ["holdout.percent", "0"], id="no one"
        ),
        pytest.param(
            raw_config(holdout={"percent": 100, "salt": "h"}),
            ["holdout.percent", "100"],
            id="everybody held out",
        ),
        pytest.param(raw_config(holdout={"percent": 5}), ["holdout.salt"], id="holdout, no salt"),
        pytest.param(
            one(overrides={"qa": "gone"}),
            ["overrides", "'qa'", "'gone'", "['candidate', 'stable']"],
            id="override of an unknown variant",
        ),
        pytest.param(one(overrides={"": "stable"}), ["overrides"], id="override of no unit"),
        pytest.param(
            asks(attribute="chanel", equals="web"),
            [
                "experiments.okla-v1-v2.targeting.0.attribute",
                "unknown attribute 'chanel'",
                "['beta', 'channel', 'turns']",
            ],
            id="unknown attribute",
        ),
        pytest.param(
            asks(attribute="channel", any_of=["web", "wep"]),
            ["targeting.0", "'wep'", "web, sms"],
            id="unknown value",
        ),
        pytest.param(
            asks(attribute="channel", equals=True), ["True", "quotes"], id="yes in a YAML file"
        ),
        pytest.param(
            asks(attribute="turns", equals="3"), ["'3'", "'number'"], id="text for a number"
        ),
        pytest.param(
            asks(attribute="turns", any_of=[True]), ["True", "'number'"], id="boolean for a number"
        ),
        pytest.param(
            asks(attribute="beta", equals=1), ["'boolean'", "true or false"], id="1 for a boolean"
        ),
        pytest.param(
            asks(attribute="channel", at_least=3), ["'channel'", "for numbers"], id="order of texts"
        ),
        pytest.param(
            asks(attribute="turns", at_most=10**301),
            ["targeting.0: at_most is too large"],
            id="a number beyond all that requests can bring",
        ),
        pytest.param(
            asks(attribute="turns", at_least=3, at_most=1),
            ["3", "1", "nobody"],
            id="nobody is both",
        ),
        pytest.param(asks(attribute="turns"), ["nothing is asked of 'turns'"], id="no condition"),
        pytest.param(
            asks(attribute="turns", equals=None), ["nothing is asked of 'turns'"], id="null"
        ),
        pytest.param(asks(attribute="turns", any_of=[]), ["any_of is empty"], id="no value"),
        pytest.param(
            asks(attribute="turns", greater=1), ["greater", "Extra inputs"], id="unknown operator"
        ),
        pytest.param(
            raw_config(attributes={"a": {"type": "text"}}),
            ["attributes.a", "'header' and 'metadata'"],
            id="attribute from nowhere",
        ),
        pytest.param(
            raw_config(attributes={"a": {"type": "text", "header": "x y"}}),
            ["attributes.a.header", "'x y'"],
            id="no header",
        ),
        pytest.param(
            raw_config(attributes={"a": {"type": "date", "header": "x"}}),
            ["attributes.a.type", "'number'", "'date'"],
            id="unknown type",
        ),
        pytest.param(
            raw_config(attributes={"a": {"type": "number", "header": "x", "values": ["1"]}}),
            ["values are for texts", "'number'"],
            id="values of a number",
        ),
    ],
)
def test_contradictions_are_refused_with_place_value_and_fix(
    raw: dict[str, Any], names: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_gateway_config(raw)
    for name in names:
        assert name in str(caught.value)


def test_five_and_five_point_zero_percent_are_one_configuration() -> None:
    def hash_of(percent: float) -> str:
        return gateway_config(
            holdout={"percent": percent, "salt": "h"},
            layers={"chat": {"salt": "c"}},
            experiments={
                "okla-v1-v2": EXPERIMENT
                | {"coverage": percent, "layer": "chat", "slots": [0, percent]}
            },
        ).config_hash

    assert hash_of(5) == hash_of(5.0)
    assert hash_of(5) != hash_of(5.01)


def test_the_readme_shows_a_valid_configuration() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Who takes part")[1].split("\n## ")[0]
    shown = yaml.safe_load(section.split("```yaml\n")[1].split("```")[0])
    rules = parse_gateway_config(raw_config(**shown)).rules
    assert set(rules) == {"style", "price"}
    assert rules["price"].coverage == 2000
