"""A whole carril with echo engines for the gateway's benchmarks, and load on it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import yaml

from cluster.local_cluster import ClusterRecord
from cluster.ray_environment import loopback_environment
from cluster.rollout import with_loopback
from cluster.serve_api import ServeApi
from serve_app.config import parse_gateway_config
from tests.benchmarks.machine import ROOT
from tests.benchmarks.servers import free_port

MESSAGES = [{"role": "user", "content": "Klk, busco una yipeta pa la familia"}]
CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Target:
    """Something to put under load."""

    path: str
    body: Mapping[str, Any]
    sessions: bool = False
    """Whether every request is of a new session."""


TWO_HOP = Target("/two-hop/", {"messages": MESSAGES})
PLAIN = Target(CHAT_PATH, {"model": "echo", "messages": MESSAGES})
ENROLLED = Target(CHAT_PATH, {"model": "split", "messages": MESSAGES}, sessions=True)
CACHED = Target(CHAT_PATH, {"model": "echo", "messages": MESSAGES, "temperature": 0})


@dataclass(frozen=True, slots=True)
class BenchCluster:
    """A running carril."""

    url: str
    home: Path
    config: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def driver_environment(self) -> dict[str, str]:
        """What a process needs that connects to the cluster's Ray."""
        token = self._record().token_path
        return {**self.environment, **loopback_environment(Path(token) if token else None)}

    def deploy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Deploy the configuration with a change, unchecked, and wait until it serves."""
        record = self._record()
        raw = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        change(raw)
        port = urlsplit(self.url).port
        ServeApi(record.dashboard_url, token=record.token()).deploy(
            with_loopback({"http_options": {"port": port}, "proxy_location": "HeadOnly", **raw})
        )
        gateway = next(app for app in raw["applications"] if app["name"] == "gateway")
        wanted = parse_gateway_config(gateway["deployments"][0]["user_config"]).config_hash
        deadline = time.monotonic() + 120
        while not self._serves(wanted):
            assert time.monotonic() < deadline, f"{self.url} does not serve {wanted}"
            time.sleep(0.2)

    def _serves(self, wanted: str) -> bool:
        try:
            state = httpx.get(f"{self.url}/readyz", timeout=10).json()
        except (httpx.HTTPError, ValueError):
            return False
        configs = {gateway["config"] for gateway in state["gateways"]}
        return state["status"] == "ready" and configs == {wanted}

    def replicas(self, app: str) -> list[psutil.Process]:
        """Return the replica processes of an application."""
        found = []
        for process in self._record().members():
            with contextlib.suppress(psutil.Error):
                if f"ServeReplica:{app}:" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def _record(self) -> ClusterRecord:
        record = ClusterRecord.load(self.home)
        assert record is not None
        return record


@contextlib.contextmanager
def serving(config: Path = ROOT / "tests/benchmarks/gateway.yaml") -> Iterator[BenchCluster]:
    """Run `carril up` with a configuration, as a user would."""
    # Not under pytest's directory: a long path, and cleaned up by other runs while this one lasts.
    with tempfile.TemporaryDirectory(prefix="carril-bench-") as home:
        http, dashboard, ray = (str(free_port()) for _ in range(3))
        environment = {**os.environ, "CARRIL_HOME": home, "PYTHONPATH": str(ROOT)}
        carril = [sys.executable, "-m", "cluster.cli.main"]
        up = [*carril, "up", str(config), "--port", http]
        up += ["--dashboard-port", dashboard, "--ray-port", ray]
        try:
            subprocess.run(up, check=True, env=environment, cwd=ROOT)
            yield BenchCluster(f"http://127.0.0.1:{http}", Path(home), config, environment)
        finally:
            subprocess.run([*carril, "down"], check=False, env=environment, cwd=ROOT)


def load(
    url: str,
    target: Target,
    *,
    clients: int,
    seconds: float,
    name: str = "",
    rate: float | None = None,
) -> dict[str, Any]:
    """Put a server under load, from a program of its own.

    Args:
        url: Where it listens.
        target: What is asked of it.
        clients: Connections.
        seconds: How long.
        name: Part of the session ids; the seed of arrivals.
        rate: Requests a second that come by a Poisson process; None for a closed loop.

    Raises:
        AssertionError: If a request failed, or the client was the bottleneck.
    """
    command = [sys.executable, "-m", "tests.benchmarks.http_load", url + target.path]
    command += ["--clients", str(clients), "--seconds", str(seconds), "--name", name]
    command += ["--body", json.dumps(target.body)]
    if target.sessions:
        command.append("--sessions")
    if rate is not None:
        command += ["--rate", str(rate)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["failures"] == 0, result["first_failure"]
    assert result["client_cpu_share"] < 0.6, f"the client measured itself: {result}"
    return result
