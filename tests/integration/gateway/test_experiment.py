"""From traffic to a verdict, a route and a report, over a real deployment."""

import asyncio
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx

from tests.integration.conftest import CHAT_PATH, Cluster, chat, wait_until

N_REQUESTS = 3
"""Per session, all the same: of two gateways one is asked twice, and answers from its cache."""
N_SESSIONS = 260


def declared(name: str) -> dict[str, Any]:
    """Return an even split of its own, decided as soon as there are enough sessions."""
    return {
        "models": {"okla-chat": {"experiment": name, "defaults": {"temperature": 0}}},
        "experiments": {
            name: {
                "salt": name,
                "control": "stable",
                "allocation": {"stable": 50, "candidate": 50},
                "metrics": {"thumbs": {"measure": "feedback.thumbs", "role": "primary"}},
                "guardrails": {"errors": {"margin": 0.25}},
                "decision": {
                    "planned_units": N_SESSIONS,
                    "policy": {"min_runtime_days": 0, "min_units_per_arm": 50},
                },
            }
        },
    }


async def session(http: httpx.AsyncClient, url: str, name: str) -> None:
    """Ask some times, and like the candidate."""
    headers = {"x-session-id": name}
    for _ in range(N_REQUESTS):
        reply = await http.post(url + CHAT_PATH, json=chat(f"klk {name}"), headers=headers)
        assert reply.status_code == 200
    liked = reply.headers["x-carril-variant"] == "candidate" or name.endswith(("0", "3", "6"))
    vote = {"inference_id": reply.json()["id"], "thumbs": "up" if liked else "down"}
    assert (await http.post(url + "/v1/feedback", json=vote)).status_code == 200


async def traffic(cluster: Cluster, run: str) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        for first in range(0, N_SESSIONS, 20):
            names = [f"{run}-{n}" for n in range(first, first + 20)]
            await asyncio.gather(*(session(http, cluster.url, name) for name in names))


def command(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", "exp", *arguments],
        capture_output=True,
        text=True,
        env={"CARRIL_HOME": str(cluster.home), "PATH": "/usr/bin", "CARRIL_TRACKING": "off"},
        check=False,
    )


def test_traffic_becomes_a_verdict_a_route_and_a_report(cluster: Cluster, tmp_path: Path) -> None:
    name = f"exp-{uuid.uuid4().hex[:8]}"
    cluster.deploy(gateway=declared(name))
    asyncio.run(traffic(cluster, uuid.uuid4().hex[:6]))
    wait_until(
        lambda: (
            cluster.query("SELECT COUNT(*) FROM outcomes WHERE experiment = ?", name)[0][0]
            == N_REQUESTS * N_SESSIONS
        ),
        "all outcomes stored",
    )
    evidence = tmp_path / "evidence.json"
    decided = command(cluster, "decide", name, "--evidence", str(evidence), "--json")
    assert decided.returncode == 0, decided.stderr + decided.stdout
    decision = json.loads(decided.stdout)
    assert decision["verdict"] == "PROMOTE_B"
    replayed = command(cluster, "decide", name, "--replay", str(evidence), "--json")
    assert replayed.stdout == decided.stdout

    results = httpx.get(f"{cluster.url}/v1/experiments/{name}/results", timeout=120).json()
    assert results["verdict"] == "PROMOTE_B"
    assert results["evidence_sha256"] == decision["evidence_sha256"]
    arms = results["arms"]
    assert arms["control"]["units"] + arms["treatment"]["units"] == N_SESSIONS
    for arm in arms.values():
        assert 1 / 3 <= arm["cached_share"] <= 2 / 3
        assert arm["missing_units"] == arm["error_share"] == 0
    listed = httpx.get(f"{cluster.url}/v1/experiments", timeout=120).json()["data"]
    assert sum(next(r for r in listed if r["experiment"] == name)["units"].values()) == N_SESSIONS

    page = tmp_path / "report.html"
    reported = command(cluster, "report", name, "--out", str(page))
    assert reported.returncode == 0, reported.stderr
    assert "Promote the treatment" in page.read_text(encoding="utf-8")
