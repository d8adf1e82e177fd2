"""The body of /readyz: ready, degraded or not, and why."""

from dataclasses import replace
from typing import Any

import pytest

from serve_app.config import RetryConfig
from serve_app.gateway.readiness import GatewayReport, readiness_body
from serve_app.gateway.retry import RetryBudget
from serve_app.gateway.variants import VariantClient
from serve_app.model.calls import ModelState
from serve_app.telemetry.metrics import GatewayMetrics
from tests.unit.gateway.builders import identity


def gateway(replica: str = "g1", config: str = "c1", error: str | None = None) -> GatewayReport:
    return GatewayReport(replica=replica, config=config, error=error)


def model(state: Any = "ready", error: str | None = None, *, serves: bool = True) -> ModelState:
    return ModelState(
        replica="r1",
        state=state,
        identity=identity() if serves else None,
        config_hash="0123456789ab",
        error=error,
    )


def variant(*states: ModelState) -> VariantClient:
    client = VariantClient("stable", "app", RetryBudget(RetryConfig()), GatewayMetrics())
    client.states = list(states)
    return client


LOADING = model("loading", serves=False)
FAILED = model("failed", "hash differs", serves=False)


@pytest.mark.parametrize(
    ("gateways", "variants", "status"),
    [
        pytest.param([gateway()], [variant(model())], "ready", id="all well"),
        pytest.param([gateway()], [], "not_ready", id="no configuration"),
        pytest.param([gateway()], [variant()], "not_ready", id="nobody answers"),
        pytest.param([gateway()], [variant(LOADING)], "not_ready", id="loading"),
        pytest.param([gateway()], [variant(FAILED)], "not_ready", id="failed"),
        pytest.param([gateway()], [variant(model(), LOADING)], "degraded", id="one of two loads"),
        pytest.param([gateway()], [variant(model("idle"))], "ready", id="asleep"),
        pytest.param([gateway()], [variant(model("waking"), model("idle"))], "ready", id="waking"),
        pytest.param(
            [gateway()], [variant(model()), variant(FAILED)], "not_ready", id="one of two variants"
        ),
        pytest.param(
            [gateway()], [variant(model(error="hash differs"))], "degraded", id="old model serves"
        ),
        pytest.param(
            [gateway(error="weights")], [variant(model())], "degraded", id="old config serves"
        ),
    ],
)
def test_status(gateways: list[GatewayReport], variants: list[VariantClient], status: str) -> None:
    assert readiness_body(gateways, variants)["status"] == status


def test_body_names_every_replica_and_every_reason() -> None:
    told = model(error="hash differs")
    body = readiness_body(
        [gateway("g1"), gateway("g2", error="weights add up to 97 %")],
        [variant(replace(told, identity=identity(prior_sha256="cd" * 32)), LOADING)],
    )
    assert body["config"] == "c1"
    assert [g["error"] for g in body["gateways"]] == [None, "weights add up to 97 %"]
    old, loading = body["variants"]["stable"]["replicas"]
    assert (old["error"], old["state"], old["model_sha256"]) == ("hash differs", "ready", "ab" * 32)
    assert (old["intent_prior_sha256"], loading["intent_prior_sha256"]) == ("cd" * 32, None)
    assert (loading["state"], loading["model"], loading["config"]) == ("loading", None, "")


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ((model("idle"), model()), "ready"),
        ((model("idle"), model("waking")), "waking"),
        ((model("idle"), FAILED), "idle"),
        ((LOADING, FAILED), "not_ready"),
        ((), "not_ready"),
    ],
)
def test_variant_is_as_good_as_its_best_replica(states: tuple[ModelState, ...], said: str) -> None:
    body = readiness_body([gateway()], [variant(*states)])
    assert body["variants"]["stable"]["state"] == said


def test_gateways_that_disagree_have_no_common_configuration() -> None:
    body = readiness_body([gateway(config="a"), gateway(config="b")], [variant(model())])
    assert body["config"] == ""
