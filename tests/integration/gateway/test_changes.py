"""Changes while serving: hot swaps lose nothing, bad configurations change nothing."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.errors import ConfigError
from tests.integration.conftest import CHAT_PATH, GATEWAY, Cluster, chat, split, wait_until
from tests.integration.gateway.load import Load, failures


def test_hot_swap_under_load_loses_nothing(cluster: Cluster) -> None:
    before = cluster.pids()
    body = chat(model="okla-chat@stable", temperature=1)

    def swap() -> None:
        for tag in ("second", "third"):
            cluster.deploy(stable={"echo": {"tag": tag, "prefill_s": 0.2}})
            time.sleep(1.0)  # some load on this model

    answers = asyncio.run(Load(cluster.url, 20, lambda _: body).run_during(swap))
    assert failures(answers) == []
    first_words = [answer.content.split()[0] for answer in answers]
    assert list(dict.fromkeys(first_words))[-1] == "third"
    assert set(first_words) == {"stable", "second", "third"}
    assert len({answer.headers["x-carril-model"] for answer in answers}) == 3
    assert cluster.pids() == before
    wait_until(
        lambda: cluster.total("carril_engine_running", variant="stable") == 0, "old models gone"
    )


BAD_GATEWAYS = [
    pytest.param({"experiments": split(87)["okla-v1-v2"]}, id="shape"),
    pytest.param(
        {
            "experiments": {
                "okla-v1-v2": GATEWAY["experiments"]["okla-v1-v2"]
                | {"allocation": {"stable": 90, "candidate": 7}}
            }
        },
        id="weights of 97",
    ),
    pytest.param(
        {
            "experiments": {
                "okla-v1-v2": GATEWAY["experiments"]["okla-v1-v2"]
                | {"allocation": {"stable": 90, "gone": 10}}
            }
        },
        id="unknown variant",
    ),
    pytest.param({"surprise": 1}, id="unknown key"),
]


@pytest.mark.parametrize("bad", BAD_GATEWAYS)
def test_bad_gateway_configuration_leaves_the_old_one_serving(
    cluster: Cluster, bad: dict[str, object]
) -> None:
    before, config = cluster.pids(), cluster.readyz()["config"]
    cluster.deploy_unchecked(gateway=bad)

    def refused() -> bool:
        state = cluster.readyz()
        return state["status"] == "degraded" and all(g["error"] for g in state["gateways"])

    wait_until(refused, "both gateways say why they refuse")
    state = cluster.readyz()
    assert state["config"] == config
    response = httpx.post(cluster.url + CHAT_PATH, json=chat(), headers={"x-session-id": "s"})
    assert (response.status_code, response.headers["x-carril-config"]) == (200, config)
    assert cluster.total("carril_config_refused_total") >= 2
    assert cluster.pids() == before


def test_bad_model_configuration_leaves_the_old_model_serving(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = cluster.pids()
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF" + b"x" * 100)
    faults = [
        ({"engine": "llama_cpp", "model": {"path": "gone.gguf", "sha256": "ab" * 32}}, "exist"),
        ({"engine": "llama_cpp", "model": {"path": str(wrong), "sha256": "ab" * 32}}, "altered"),
        ({"n_slots": 0}, "n_slots"),
    ]
    for fault, reason in faults:
        cluster.deploy_unchecked(candidate=fault)

        state: dict[str, Any] = {}

        def refused(reason: str = reason, state: dict[str, Any] = state) -> bool:
            state.update(cluster.readyz())  # of one gateway; the other may hear of it later
            [replica] = state["variants"]["candidate"]["replicas"]
            return reason in (replica["error"] or "")

        wait_until(refused, f"readyz says {reason!r}")
        assert state["status"] == "degraded"
        [replica] = state["variants"]["candidate"]["replicas"]
        assert replica["state"] == "ready"
        response = httpx.post(
            cluster.url + CHAT_PATH, json=chat(model="okla-chat@candidate", temperature=1)
        )
        assert response.status_code == 200
        assert cluster.total("carril_model_config_current", variant="candidate") == 0
    assert cluster.pids() == before


def test_deploy_refuses_before_anything_changes(cluster: Cluster) -> None:
    before, config = cluster.pids(), cluster.readyz()["config"]
    with pytest.raises(ConfigError, match="97 %"):
        cluster.deploy(gateway=BAD_GATEWAYS[1].values[0])
    assert cluster.readyz()["config"] == config
    assert cluster.pids() == before
