"""Who takes part, seen from HTTP: headers, exposures, outcomes, metrics."""

from typing import Any

import pytest

from tests.unit.gateway.builders import CHAT, RAW_CONFIG, Gateway
from tests.unit.gateway.over_http import CHAT_PATH, MakeGateway

EXPERIMENT = RAW_CONFIG["experiments"]["okla-v1-v2"]


def experiment(**changes: Any) -> dict[str, Any]:
    """Return an experiment that treats everybody who takes part."""
    everybody = {"allocation": {"stable": 0, "candidate": 100}}
    return {"experiments": {"okla-v1-v2": EXPERIMENT | everybody | changes}}


async def ask(gateway: Gateway, session: str, **headers: str) -> dict[str, str]:
    """Return what the headers say about the decision."""
    async with gateway.client() as client:
        body = CHAT | {"metadata": {"country": "do"}}
        response = await client.post(
            CHAT_PATH, json=body, headers={"x-session-id": session} | headers
        )
    assert response.status_code == 200, response.text
    await gateway.events.flush()
    return {
        name: response.headers.get(f"x-carril-{name}", "")
        for name in ("variant", "exposure", "reason", "experiment")
    }


async def test_an_override_is_served_recorded_and_not_enrolled(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(
        **experiment(allocation={"stable": 100, "candidate": 0}, overrides={"qa": "candidate"})
    )
    assert await ask(gateway, "qa") == {
        "variant": "candidate",
        "exposure": "override",
        "reason": "override",
        "experiment": "okla-v1-v2",
    }
    assert gateway.exposures() == []
    [outcome] = gateway.outcomes()
    assert (outcome.exposure, outcome.variant, outcome.unit) == ("override", "candidate", "qa")
    assert (outcome.experiment, outcome.version) == ("okla-v1-v2", 1)
    assert (await ask(gateway, "s1"))["variant"] == "stable"


async def test_the_unit_of_an_override_names_its_tenant(make_gateway: MakeGateway) -> None:
    """Units are those of the log: another tenant's session of the same name is another unit."""
    gateway = make_gateway(**experiment(overrides={"acme/qa": "stable"}))
    assert (await ask(gateway, "qa"))["exposure"] == "enrolled"


async def test_the_holdout_gets_control_of_every_experiment(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**experiment(), holdout={"percent": 50, "salt": "h"})
    found = [await ask(gateway, f"s{n}") for n in range(40)]
    assert {(one["variant"], one["exposure"], one["reason"]) for one in found} == {
        ("stable", "holdout", "holdout"),
        ("candidate", "enrolled", "assigned"),
    }
    held_out = [one for one in gateway.outcomes() if one.exposure == "holdout"]
    assert {(one.variant, one.experiment) for one in held_out} == {("stable", "okla-v1-v2")}
    assert len(gateway.exposures()) == 40 - len(held_out)


async def test_who_does_not_take_part_is_like_a_unit_of_no_experiment(
    make_gateway: MakeGateway,
) -> None:
    gateway = make_gateway(**experiment(coverage=0))
    assert await ask(gateway, "s1") == {
        "variant": "stable",
        "exposure": "none",
        "reason": "coverage",
        "experiment": "",
    }
    assert gateway.exposures() == []
    [outcome] = gateway.outcomes()
    assert (outcome.experiment, outcome.exposure, outcome.unit) == (None, "none", "s1")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"X-Channel": "web"}, "assigned"),
        ({"x-channel": "web", "x-turns": "2"}, "assigned"),
        ({"x-channel": "sms"}, "targeting"),
        ({}, "targeting"),
    ],
)
async def test_targeting_reads_headers_and_metadata(
    make_gateway: MakeGateway, headers: dict[str, str], reason: str
) -> None:
    gateway = make_gateway(
        **experiment(
            targeting=[
                {"attribute": "channel", "any_of": ["web"]},
                {"attribute": "country", "none_of": ["us"]},
            ]
        ),
        attributes={
            "channel": {"type": "text", "header": "X-Channel"},
            "country": {"type": "text", "metadata": "country"},
        },
    )
    assert (await ask(gateway, "s1", **headers))["reason"] == reason


async def test_two_experiments_share_a_model_and_no_unit(make_gateway: MakeGateway) -> None:
    one = EXPERIMENT | {"layer": "chat", "allocation": {"stable": 0, "candidate": 100}}
    gateway = make_gateway(
        models={"okla-chat": {"experiments": ["low", "high"]}},
        layers={"chat": {"salt": "chat-1"}},
        experiments={
            "low": one | {"salt": "low", "slots": [0, 40]},
            "high": one | {"salt": "high", "slots": [60, 100]},
        },
    )
    found = [await ask(gateway, f"s{n}") for n in range(60)]
    assert {(f["experiment"], f["variant"], f["reason"]) for f in found} == {
        ("low", "candidate", "assigned"),
        ("high", "candidate", "assigned"),
        ("", "stable", "layer"),
    }
    units = [exposure.unit for exposure in gateway.exposures()]
    assert len(units) == len(set(units))


async def test_reasons_are_counted(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**experiment(overrides={"qa": "candidate"}))
    for session in ("s1", "qa", "qa", ""):
        await ask(gateway, session)
    page = (await gateway.metrics_page()).decode()
    for reason, count in (("assigned", 1), ("override", 2), ("no_unit", 1)):
        assert any(
            line.startswith("carril_assignments_total")
            and 'served_model="okla-chat"' in line
            and f'reason="{reason}"' in line
            and line.endswith(f" {count}.0")
            for line in page.splitlines()
        ), page
