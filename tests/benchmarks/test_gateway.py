"""What the gateway costs, beside a bare two-hop Ray Serve application and LiteLLM's proxy.

The two-hop application runs on the same cluster with the same proxy and as many ingress replicas;
LiteLLM's proxy runs alone with one worker, in front of a mock that answers at once, while the
cluster rests. One load program for all; rounds alternate (A B C, C B A, ...). A ratio is ours
divided by theirs in the same round: at 1 client for latency, at 16 for requests/s.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.benchmarks import litellm_peer, report
from tests.benchmarks.gateway_cluster import (
    CACHED,
    CHAT_PATH,
    ENROLLED,
    MESSAGES,
    PLAIN,
    TWO_HOP,
    Target,
    load,
    serving,
)
from tests.benchmarks.spread import Spread, ratios, spread

SECONDS = float(os.environ.get("CARRIL_BENCH_SECONDS", "4"))
WARM_UP_S = 3.0
CLIENTS = (1, 16)
FIELDS = {"p50_ms": "ms", "p99_ms": "ms", "requests_per_s": "1/s", "client_cpu_share": ""}
TARGETS = {
    "two_hop": TWO_HOP,
    "gateway": PLAIN,
    "gateway_enrolled": ENROLLED,
    "gateway_cached": CACHED,
    "litellm": Target(CHAT_PATH, {"model": "echo", "messages": MESSAGES}),
}

Rounds = dict[tuple[str, int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        ours = stack.enter_context(serving()).url
        peer = stack.enter_context(litellm_peer.litellm()).url
        yield {name: peer if name == "litellm" else ours for name in TARGETS}


@pytest.mark.timeout(1800)
def test_gateway(urls: dict[str, str]) -> None:
    run = report.start("gateway")
    rounds: Rounds = {}
    for name, target in TARGETS.items():
        load(urls[name], target, clients=16, seconds=WARM_UP_S, name="warm")
    for number in range(report.rounds(5)):
        names = list(TARGETS) if number % 2 == 0 else list(reversed(TARGETS))
        for clients in CLIENTS:
            for name in names:
                result = load(
                    urls[name],
                    TARGETS[name],
                    clients=clients,
                    seconds=SECONDS,
                    name=f"{number}-{clients}",
                )
                rounds.setdefault((name, clients), []).append(result)
    run.publish(
        ratios=compared(rounds),
        absolutes=absolutes(rounds),
        notes={
            "seconds_per_round": SECONDS,
            "litellm": litellm_peer.VERSION,
            "litellm_workers": 1,
        },
    )


def compared(rounds: Rounds) -> dict[str, Spread]:
    """Return ours divided by theirs, for everything that has a peer."""

    def ratio(name: str, peer: str, clients: int, figure: str) -> Spread:
        ours, theirs = rounds[name, clients], rounds[peer, clients]
        return ratios([one[figure] for one in ours], [one[figure] for one in theirs])

    return {
        "gateway_p50_vs_two_hop": ratio("gateway", "two_hop", 1, "p50_ms"),
        "gateway_p50_vs_two_hop_c16": ratio("gateway", "two_hop", 16, "p50_ms"),
        "gateway_rps_vs_two_hop": ratio("gateway", "two_hop", 16, "requests_per_s"),
        "gateway_enrolled_p50_vs_two_hop": ratio("gateway_enrolled", "two_hop", 1, "p50_ms"),
        "gateway_cached_p50_vs_two_hop": ratio("gateway_cached", "two_hop", 1, "p50_ms"),
        "gateway_p50_vs_litellm": ratio("gateway", "litellm", 1, "p50_ms"),
        "gateway_p50_vs_litellm_c16": ratio("gateway", "litellm", 16, "p50_ms"),
        "gateway_rps_vs_litellm": ratio("gateway", "litellm", 16, "requests_per_s"),
    }


def absolutes(rounds: Rounds) -> dict[str, Spread]:
    """Return every figure of every side."""
    return {
        f"{name}_c{clients}_{figure}": spread((one[figure] for one in results), unit)
        for (name, clients), results in rounds.items()
        for figure, unit in FIELDS.items()
    }
