"""When a rollout is done, when it failed, and what it waits for."""

import copy
from pathlib import Path
from typing import Any

import pytest

from cluster.readiness import judge
from cluster.validate import ServeConfig
from serve_app.config import parse_gateway_config, parse_model_config

MODEL = parse_model_config({"engine": "echo"})
GATEWAY = parse_gateway_config(
    {"models": {"m": {"variant": "stable"}}, "variants": {"stable": {"app": "okla-stable"}}}
)
CONFIG = ServeConfig(
    path=Path("c.yaml"),
    raw={"applications": [{"name": "gateway"}, {"name": "okla-stable"}]},
    gateways={"gateway": GATEWAY},
    models={"okla-stable": MODEL},
)
HASHES = CONFIG.expected_hashes()


def details(**statuses: str) -> dict[str, Any]:
    names = {"gateway": "RUNNING", "okla-stable": "RUNNING"} | statuses
    return {
        "applications": {
            name: {"status": status, "message": "boom", "deployments": {}, "source": "declarative"}
            for name, status in names.items()
        }
    }


def readyz() -> dict[str, Any]:
    return {
        "status": "ready",
        "config": HASHES["gateway"],
        "gateways": [{"replica": "g1", "config": HASHES["gateway"], "error": None}],
        "variants": {
            "stable": {
                "app": "okla-stable",
                "replicas": [
                    {
                        "replica": "m1",
                        "state": "ready",
                        "config": HASHES["okla-stable"],
                        "wanted_config": HASHES["okla-stable"],
                        "error": None,
                    }
                ],
            }
        },
    }


def changed(**model_replica: object) -> dict[str, Any]:
    body = copy.deepcopy(readyz())
    body["variants"]["stable"]["replicas"][0].update(model_replica)
    return body


def test_it_is_done_when_every_replica_runs_the_config() -> None:
    assert judge(CONFIG, details(), readyz()).done


@pytest.mark.parametrize("state", ["idle", "waking"])
def test_replica_that_sleeps_runs_the_config(state: str) -> None:
    assert judge(CONFIG, details(), changed(state=state)).done


@pytest.mark.parametrize(
    ("body", "waiting"),
    [
        pytest.param(None, "gateway", id="no answer"),
        pytest.param({**readyz(), "config": "", "gateways": []}, "gateway: old config", id="mixed"),
        pytest.param(changed(config="old"), "okla-stable: old config", id="old model"),
        pytest.param(
            changed(config="old", wanted_config="older", error="of an earlier config"),
            "okla-stable: old config",
            id="an error of an earlier config",
        ),
        pytest.param(changed(state="loading"), "okla-stable: loading", id="loading"),
        pytest.param({**readyz(), "status": "degraded"}, "gateway: degraded", id="degraded"),
        pytest.param({**readyz(), "variants": {}}, "okla-stable: no replica yet", id="no replica"),
    ],
)
def test_it_waits(body: dict[str, Any] | None, waiting: str) -> None:
    verdict = judge(CONFIG, details(), body)

    assert not verdict.done
    assert verdict.failure is None
    assert waiting in verdict.waiting_for


def test_it_waits_for_applications_and_for_deleted_ones_to_go() -> None:
    verdict = judge(CONFIG, details(gateway="DEPLOYING", gone="DELETING"), None)

    assert verdict.waiting_for == ("gateway: deploying", "gone: being deleted")


def test_an_application_that_serve_could_not_deploy_is_the_failure() -> None:
    verdict = judge(CONFIG, details(gateway="DEPLOY_FAILED"), None)

    assert verdict.failure == "application 'gateway' failed: boom"


@pytest.mark.parametrize("wanted", [HASHES["okla-stable"], "invalid"])
def test_a_refused_model_is_the_failure_and_says_what_serves(wanted: str) -> None:
    body = changed(config="old", wanted_config=wanted, error="no such file")

    verdict = judge(CONFIG, details(), body)

    assert verdict.failure is not None
    assert "keeps the old one: no such file" in verdict.failure


def test_a_refused_gateway_config_is_the_failure() -> None:
    body = readyz()
    body["gateways"][0].update(config="old", error="weights")

    assert "the gateway refuses the new config" in str(judge(CONFIG, details(), body).failure)


def test_without_a_gateway_serve_decides_alone() -> None:
    config = ServeConfig(path=Path("c"), raw={"applications": [{"name": "gateway"}]})

    assert judge(config, {"applications": {"gateway": {"status": "RUNNING"}}}, None).done
