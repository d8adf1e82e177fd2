"""A split that follows its results on a real cluster: it moves, and no session does."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

from tests.integration.conftest import GATEWAY, Cluster, wait_until
from tests.integration.gateway.load import Answer, ask_all, client, failures

NAME = "okla-v1-v2"
N = 400
"""New sessions per split."""
OUTCOMES = "SELECT COUNT(*) FROM outcomes WHERE experiment = ? AND version = ?"
EXPOSURES = "SELECT unit, variant, probability FROM exposures WHERE experiment = ? AND version = ?"
CONFLICTS = "SELECT unit FROM exposure_conflicts WHERE experiment = ? AND version = ?"


def declared() -> dict[str, Any]:
    """Return a new version of the experiment, in halves, whose split is to move."""
    return {
        NAME: GATEWAY["experiments"][NAME]
        | {
            "salt": uuid.uuid4().hex,
            "version": time.time_ns() // 1_000_000 % 1_000_000_000,
            "allocation": {"stable": 50, "candidate": 50},
            "guardrails": {"errors": {"margin": 0.3}},
            "adaptive": {
                "every_s": 0.1,
                "min_new_units": 100,
                "max_step": 40,
                "best_probability": 0.9999999,
            },
        }
    }


def adapt(cluster: Cluster, *arguments: str) -> Any:
    """Run `carril exp adapt`; return what it prints as JSON."""
    found = subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", "exp", "adapt", *arguments, "--json"],
        env={**os.environ, "CARRIL_HOME": str(cluster.home)},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def judge(cluster: Cluster, answers: Sequence[Answer]) -> None:
    """Vote: 7 of 10 like the candidate, 6 of 10 what answers now."""
    likes = {"stable": 6, "candidate": 7}
    seen = dict.fromkeys(likes, 0)

    async def vote() -> None:
        async with client(50) as http, asyncio.TaskGroup() as group:
            for answer in answers:
                seen[answer.variant] += 1
                up = seen[answer.variant] % 10 < likes[answer.variant]
                body = {
                    "inference_id": json.loads(answer.body)["id"],
                    "thumbs": "up" if up else "down",
                }
                group.create_task(_post(http, body))

    async def _post(http: Any, body: dict[str, Any]) -> None:
        async with http.post(f"{cluster.url}/v1/feedback", json=body) as response:
            assert response.status == 200, await response.text()

    asyncio.run(vote())


def ask(cluster: Cluster, sessions: Sequence[str]) -> list[Answer]:
    """Let sessions ask; those whose gateway died ask again, as the OpenAI SDK does."""
    answers = asyncio.run(ask_all(cluster.url, sessions))
    broken = [answer.session for answer in failures(answers)]
    again = asyncio.run(ask_all(cluster.url, broken)) if broken else []
    assert failures(again) == []
    return [answer for answer in [*answers, *again] if answer.status == 200]


def test_a_split_moves_and_no_session_does_across_a_dead_gateway(cluster: Cluster) -> None:
    experiments = declared()
    version = experiments[NAME]["version"]
    cluster.deploy(gateway={"experiments": experiments})
    config = ("--config", str(cluster.home / "serve_config.yaml"))
    before = cluster.pids()["okla-stable"]
    prefix = uuid.uuid4().hex[:8]
    sessions = [f"{prefix}-{n}" for n in range(N)]

    first = ask(cluster, sessions)
    judge(cluster, first)
    wait_until(
        lambda: cluster.query(OUTCOMES, NAME, version) >= [(N,)], "an outcome for every session"
    )
    moved = adapt(cluster, "run", NAME, "--once", *config)
    assert moved["last_decision"] == "move", moved
    assert moved["percent"]["candidate"] > 60
    assert f"candidate: {moved['percent']['candidate']:g}" in (
        cluster.home / "serve_config.yaml"
    ).read_text(encoding="utf-8")

    late = [f"{prefix}-{n}" for n in range(N, 2 * N)]
    cluster.replicas("gateway")[0].kill()
    second = ask(cluster, [*sessions, *late])
    cluster.wait_ready()
    # The other way round, by hand: four of five old sessions would now get another variant.
    back = {NAME: experiments[NAME] | {"allocation": {"stable": 90, "candidate": 10}}}
    cluster.deploy(gateway={"experiments": back})
    third = ask(cluster, [*sessions, *late])

    seen: dict[str, set[str]] = {}
    for answer in (*first, *second, *third):
        seen.setdefault(answer.session, set()).add(answer.variant)
    assert len(seen) == 2 * N
    assert [session for session, variants in seen.items() if len(variants) != 1] == []
    rows = cluster.query(EXPOSURES, NAME, version)
    assert len(rows) == 2 * N
    assert cluster.query(CONFLICTS, NAME, version) == []
    share = moved["percent"]["candidate"] / 100
    for unit, variant, probability in rows:
        name = unit.rpartition("/")[2]
        assert seen[name] == {variant}
        now = share if variant == "candidate" else 1 - share
        old = int(name.partition("-")[2]) < N
        assert abs(probability - (0.5 if old else now)) < 1e-9
    assert cluster.total("carril_sticky_total", experiment=NAME, result="kept") > 0
    assert cluster.total("carril_sticky_total", experiment=NAME, result="unknown") == 0
    assert cluster.pids()["okla-stable"] == before
    assert adapt(cluster, "history", NAME, "--replay")["faults"] == []
