"""How much later a client sees a token than the engine gave it: replica, gateway and proxy.

The tokens carry the time at which they left the engine (see `clock_model`), so neither the way of
the request nor the model's own time is in it. The engine waits between tokens, as a real one does:
a server that gathers tokens before it sends any would show here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.benchmarks import report
from tests.benchmarks.gateway_cluster import CHAT_PATH, MESSAGES, BenchCluster, serving
from tests.benchmarks.machine import ROOT
from tests.benchmarks.spread import percentile, spread

STREAMS_PER_CLIENT = 30
CLIENTS = (1, 16)
BODY = {"model": "clock", "messages": MESSAGES, "stream": True}


CLOCK: dict[str, Any] = {
    "name": "clock",
    "route_prefix": None,
    "import_path": "tests.benchmarks.clock_model:build_clock",
    "deployments": [
        {
            "name": "model",
            "user_config": {
                "engine": "echo",
                "n_slots": 64,
                "echo": {"prefill_s": 0.02, "token_s": 0.02, "n_tokens": 8},
            },
        }
    ],
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[BenchCluster]:
    with serving() as cluster:
        cluster.deploy(with_clock)
        yield cluster


def with_clock(config: dict[str, Any]) -> None:
    """Add the clock to a configuration, as a variant of its own."""
    apps = {app["name"]: app for app in config["applications"]}
    gateway = apps["gateway"]["deployments"][0]["user_config"]
    gateway["models"]["clock"] = {"variant": "clock"}
    gateway["variants"]["clock"] = {"app": "clock"}
    # `carril deploy` would refuse it: only `build_model` is known to build models.
    config["applications"] = [CLOCK, *apps.values()]


@pytest.mark.timeout(900)
def test_stream_delay(cluster: BenchCluster) -> None:
    run = report.start("stream_delay")
    _read(cluster, clients=4, streams=40)
    found: dict[str, list[float]] = {}
    for _ in range(report.rounds(3)):
        for clients in CLIENTS:
            delays = _read(cluster, clients=clients, streams=clients * STREAMS_PER_CLIENT // 2)
            for which in ("first", "later"):
                values = delays[f"{which}_ms"]
                name = f"stream_c{clients}_{which}_token_delay"
                found.setdefault(f"{name}_p50_ms", []).append(percentile(values, 0.5))
                found.setdefault(f"{name}_p99_ms", []).append(percentile(values, 0.99))
    run.publish(ratios={}, absolutes={name: spread(values, "ms") for name, values in found.items()})


def _read(cluster: BenchCluster, *, clients: int, streams: int) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "tests.benchmarks.stamp_reader", cluster.url + CHAT_PATH]
    command += ["--clients", str(clients), "--streams", str(streams), "--body", json.dumps(BODY)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    delays: dict[str, list[float]] = json.loads(done.stdout)
    assert len(delays["first_ms"]) == streams
    assert all(delay >= 0 for delay in delays["first_ms"] + delays["later_ms"])
    return delays
