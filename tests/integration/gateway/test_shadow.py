"""Shadow traffic on a real gateway: users notice nothing, whatever becomes of the copies."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import httpx

from tests.integration.conftest import GATEWAY, Cluster, chat, wait_until
from tests.integration.gateway.load import Answer, ask_all, client, failures
from tests.integration.gateway.load import ask as send

SHADOW = "v2-beside-v1"
MODEL_S = 0.05
"""An answer's time in the model, beside which the gateway's own is small as in real life."""
PACED: dict[str, Any] = {"echo": {"prefill_s": MODEL_S}}


def gateway(**shadow: Any) -> dict[str, Any]:
    """Return a configuration in which only `stable` answers; with copies if any are declared."""
    experiment = GATEWAY["experiments"]["okla-v1-v2"]
    whole = {"okla-v1-v2": experiment | {"allocation": {"stable": 100, "candidate": 0}}}
    declared = {SHADOW: {"variant": "candidate", "of": "stable"} | shadow} if shadow else {}
    return {"experiments": whole, "shadow": declared}


def ask(cluster: Cluster, n: int, n_connections: int = 2) -> list[Answer]:
    sessions = [uuid.uuid4().hex for _ in range(n)]
    answers = asyncio.run(ask_all(cluster.url, sessions, n_connections))
    assert failures(answers) == []
    assert {answer.variant for answer in answers} == {"stable"}
    return answers


def median_s(answers: list[Answer]) -> float:
    return statistics.median(answer.seconds for answer in answers)


def copies(cluster: Cluster, result: str) -> float:
    return cluster.total("carril_shadow_requests_total", shadow=SHADOW, result=result)


def wait_for_copies(cluster: Cluster) -> None:
    def ended() -> bool:
        done = copies(cluster, "answered") + copies(cluster, "failed")
        return copies(cluster, "sent") == done > 0

    wait_until(ended, "an end of all copies", 30)


def compare(cluster: Cluster) -> tuple[int, Mapping[str, Any]]:
    command = [sys.executable, "-m", "cluster.cli.main", "exp", "shadow", SHADOW, "--json"]
    environment = {**os.environ, "CARRIL_HOME": str(cluster.home)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, json.loads(done.stdout)


def test_copies_cost_users_nothing_and_are_compared_in_pairs(cluster: Cluster) -> None:
    slower = {"echo": {"prefill_s": 2 * MODEL_S}}
    seconds: dict[bool, list[Answer]] = {False: [], True: []}
    for on in (False, True, False, True):  # in turns: a busy machine is busy for both
        declared = gateway(percent=50) if on else gateway()
        cluster.deploy(gateway=declared, stable=PACED, candidate=slower)
        seconds[on] += ask(cluster, 120)
    wait_for_copies(cluster)
    without, with_copies = median_s(seconds[False]), median_s(seconds[True])
    sys.stdout.write(
        f"\np50 {1000 * without:.1f} ms without and {1000 * with_copies:.1f} ms with copies of "
        f"half of the requests: ratio {with_copies / without:.2f}\n"
    )
    assert with_copies < 1.5 * without
    sent = copies(cluster, "sent")
    assert 60 < sent + copies(cluster, "dropped") < 180
    exit_code, document = compare(cluster)
    metrics = {row["name"]: row for row in document["metrics"]}
    assert document["n_pairs"] == document["n_sessions"] == sent
    assert (document["of"], document["variant"]) == ("stable", "candidate")
    assert exit_code == (0 if sent >= 100 else 5)
    assert metrics["errors"]["effect"] == 0
    assert metrics["latency_s"]["shadow"] > metrics["latency_s"]["shown"]
    exposed = cluster.query(
        "SELECT DISTINCT variant FROM exposures WHERE config_hash = ?", cluster.readyz()["config"]
    )
    assert exposed == [("stable",)]


async def _copied_and_not(url: str, n: int) -> tuple[list[Answer], list[Answer]]:
    """Ask what is copied, and what is not because it is pinned, at the same time."""
    async with client(4) as http:
        copied, pinned = [], []
        for _ in range(n):
            session = uuid.uuid4().hex
            both = await asyncio.gather(
                send(http, url, chat(temperature=1), session),
                send(http, url, chat(temperature=1, model="okla-chat@stable"), session),
            )
            copied.append(both[0])
            pinned.append(both[1])
    return copied, pinned


def ratio_to_pinned(cluster: Cluster, n: int) -> float:
    """Return p50 of requests that are copied to that of requests that are not."""
    copied, pinned = asyncio.run(_copied_and_not(cluster.url, n))
    assert failures(copied + pinned) == []
    assert {answer.variant for answer in copied} == {"stable"}
    return median_s(copied) / median_s(pinned)


def test_a_slow_and_then_dead_shadow_leaves_users_alone(cluster: Cluster) -> None:
    stuck = {"echo": {"prefill_s": 30.0}}
    copying = gateway(percent=100, max_in_flight=1, timeout_s=5)
    cluster.deploy(gateway=copying, stable=PACED, candidate=stuck)
    before = copies(cluster, "dropped")
    slow = ratio_to_pinned(cluster, 80)
    assert copies(cluster, "dropped") - before > 20

    wait_for_copies(cluster)
    failed = copies(cluster, "failed")
    (victim,) = cluster.replicas("okla-candidate")
    victim.kill()
    dead = ratio_to_pinned(cluster, 80)
    # Its absence is told, and is no reason to send users elsewhere.
    assert httpx.get(f"{cluster.url}/readyz", timeout=10).status_code == 200
    sys.stdout.write(
        f"\np50 of copied to p50 of pinned requests: {slow:.2f} with a stuck, {dead:.2f} with a "
        "killed shadow\n"
    )
    # A pinned request writes no exposure, which is the rest of the difference.
    assert max(slow, dead) < 2.0
    wait_until(lambda: copies(cluster, "failed") > failed, "failed copies", 20)
    outcomes = cluster.query(
        "SELECT DISTINCT status FROM outcomes WHERE experiment = ? AND config_hash = ?",
        SHADOW,
        cluster.readyz()["config"],
    )
    assert outcomes == [("error",)]
