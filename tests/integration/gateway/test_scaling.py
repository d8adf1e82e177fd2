"""Replicas follow the load, and a model that nobody asks sleeps; no request pays for either."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from cluster.rollout import deploy_and_wait, fetch_readyz
from cluster.status_report import status_document
from cluster.validate import load_serve_config
from tests.integration.conftest import CHAT_PATH, GATEWAY, Cluster, chat, wait_until
from tests.load_step import SERVICE_S, SLOTS, LoadStep, Moment, scaled_app


def sleepy_app(**idle: float) -> dict[str, Any]:
    app = scaled_app("okla-sleepy")
    deployment = app["deployments"][0]
    del deployment["autoscaling_config"]
    deployment["user_config"] = {
        "engine": "echo",
        "echo": {"tag": "sleepy", "prefill_s": 1.0},  # its warm-up is what waking takes
        "idle": {"unload_after_s": 1.5, **idle},
    }
    return app


def deploy(cluster: Cluster, *, sleepy: dict[str, Any], **scaling: float) -> None:
    gateway = {
        "models": GATEWAY["models"]
        | {"scaled": {"variant": "scaled"}, "sleepy": {"variant": "sleepy"}},
        "variants": GATEWAY["variants"]
        | {"scaled": {"app": "okla-scaled"}, "sleepy": {"app": "okla-sleepy"}},
    }
    raw = cluster.config(gateway=gateway)
    raw["applications"] += [scaled_app("okla-scaled", **scaling), sleepy]
    path = cluster.home / "scaling.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    config = load_serve_config(path)
    deploy_and_wait(cluster.api, config, http_url=cluster.url, timeout_s=60)


@pytest.fixture(scope="module")
def scaling(running_cluster: Cluster) -> Iterator[Cluster]:
    deploy(running_cluster, sleepy=sleepy_app(), target_wait_s=60)
    yield running_cluster
    running_cluster.deploy()


def sleepy(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.readyz()["variants"]["sleepy"]
    return found


def ask_sleepy(cluster: Cluster) -> httpx.Response:
    body = chat(f"hola {time.monotonic()}", model="sleepy")
    return httpx.post(cluster.url + CHAT_PATH, json=body, timeout=20)


@pytest.mark.timeout(180)
async def test_replicas_come_with_the_load_and_go_with_it(scaling: Cluster) -> None:
    before = {process.pid for process in scaling.replicas("okla-scaled")}
    assert len(before) == 1
    # The threshold is changed in place: the same process goes by it.
    deploy(scaling, sleepy=sleepy_app(), target_wait_s=SERVICE_S)
    assert {process.pid for process in scaling.replicas("okla-scaled")} == before

    load = LoadStep(scaling.url, "scaled", "scaled", show=print)
    slow = 4 * SERVICE_S

    def recovered(moment: Moment) -> bool:
        # The backlog, too, is gone: it is worked off in no particular order.
        quick = moment.latency_s is not None and moment.latency_s < slow
        return moment.replicas == 3 and quick and moment.in_flight <= 3 * SLOTS

    async with load.running():
        load.rate = 1
        await load.until(lambda m: m.latency_s is not None, "a first answer", 10)
        load.rate = 9  # one replica answers four per second
        await load.until(lambda m: (m.latency_s or 0) > slow, "requests wait", 15)
        await load.until(lambda m: m.replicas >= 2, "a second replica", 30)
        await load.until(recovered, "latency recovers on three replicas", 45)
        load.rate = 0.5
        await load.until(lambda m: m.replicas == 1, "one replica again", 40)
    assert [asked for asked in load.asked if asked.status != 200] == []
    during = max(moment.latency_s or 0 for moment in load.moments)
    assert during > slow


def test_variant_that_nobody_asks_sleeps_and_is_not_called_broken(scaling: Cluster) -> None:
    wait_until(lambda: sleepy(scaling)["state"] == "idle", "the variant sleeps", 10)
    answer = httpx.get(f"{scaling.url}/readyz", timeout=10)
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert scaling.total("carril_model_idle", variant="sleepy") == 1
    document = status_document(
        details=scaling.api.details(),
        readyz=fetch_readyz(scaling.url),
        processes=[],
        http_url=scaling.url,
        dashboard_url="",
    )
    told = {variant["name"]: variant["replicas"][0]["state"] for variant in document["variants"]}
    assert told["sleepy"] == "idle"
    processes = {process.pid for process in scaling.replicas("okla-sleepy")}
    answer = ask_sleepy(scaling)
    assert answer.status_code == 200
    assert "sleepy" in answer.text
    assert {process.pid for process in scaling.replicas("okla-sleepy")} == processes
    assert scaling.total("carril_model_wake_seconds_count", variant="sleepy") >= 1


def test_request_waits_for_a_sleeping_model_only_so_long(scaling: Cluster) -> None:
    deploy(scaling, sleepy=sleepy_app(wake_timeout_s=0.2), target_wait_s=SERVICE_S)
    wait_until(lambda: sleepy(scaling)["state"] == "idle", "the variant sleeps", 10)
    answer = ask_sleepy(scaling)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_waking")
    assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: ask_sleepy(scaling).status_code == 200, "the model is back", 10)
