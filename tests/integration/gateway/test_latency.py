"""The regression guard of the gateway on a cluster: latency beside a bare two-hop application.

A ratio again (`tests/benchmarks/floors`), of the best of several rounds.
"""

import httpx

from tests.benchmarks.floors import beyond, floors
from tests.benchmarks.gateway_cluster import TWO_HOP, Target, load
from tests.integration.conftest import CHAT_PATH, Cluster, chat, wait_until

ROUNDS, SECONDS = 4, 1.5
DELAY_S = 0.02


def test_gateway_adds_no_more_latency_to_two_hops_than_it_did(cluster: Cluster) -> None:
    deploy_two_hop(cluster)
    fast = {"temperature": 1}
    targets = {
        "two_hop": TWO_HOP,
        "gateway": Target(CHAT_PATH, chat(**fast)),
        "delayed": Target(CHAT_PATH, chat(model="okla-chat@candidate", **fast)),
    }
    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, target in targets.items():
            p50_ms = load(cluster.url, target, clients=1, seconds=SECONDS)["p50_ms"]
            least[name] = min(p50_ms, least.get(name, p50_ms))
    bounds = {"gateway": floors()["gateway_p50_vs_two_hop"]}
    assert beyond({"gateway": least["gateway"] / least["two_hop"]}, bounds) == {}
    # The same measurement of an answer that takes longer is refused: the guard can fail.
    assert beyond({"gateway": least["delayed"] / least["two_hop"]}, bounds)


def deploy_two_hop(cluster: Cluster) -> None:
    """Put the bare application beside the gateway; the next test's deployment removes it."""
    candidate = {"engine": "echo", "n_slots": 64, "echo": {"prefill_s": DELAY_S}}
    config = cluster.config(candidate=candidate)
    two_hop = "tests.benchmarks.two_hop"
    config["applications"] += [
        {"name": "two-hop", "route_prefix": "/two-hop", "import_path": f"{two_hop}:build_ingress"},
        {"name": "two-hop-echo", "route_prefix": None, "import_path": f"{two_hop}:build_echo"},
    ]
    cluster.api.deploy(config)

    def answers() -> bool:
        try:
            bare = httpx.post(cluster.url + TWO_HOP.path, json=TWO_HOP.body, timeout=10)
            ours = httpx.post(
                cluster.url + CHAT_PATH, json=chat(model="okla-chat@candidate"), timeout=10
            )
        except httpx.HTTPError:
            return False
        return (
            bare.status_code == ours.status_code == 200 and ours.elapsed.total_seconds() > DELAY_S
        )

    wait_until(answers, "the bare application and the slow candidate serve", 60)
