"""One real cluster for all integration tests: HAProxy, two gateways, echo engines."""

import re
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.local_cluster import ClusterRecord, start_head, stop_cluster
from cluster.ray_environment import Ports
from cluster.rollout import deploy_and_wait, with_loopback
from cluster.serve_api import ServeApi
from cluster.validate import load_serve_config
from serve_app.events.writer import store_path

CHAT_PATH = "/v1/chat/completions"
GATEWAY: dict[str, Any] = {
    "models": {
        "okla-chat": {"experiment": "okla-v1-v2", "defaults": {"temperature": 0}},
        "okla-chat:text": {
            "experiment": "okla-v1-v2",
            "content": "text",
            "defaults": {"temperature": 0},
        },
    },
    "variants": {"stable": {"app": "okla-stable"}, "candidate": {"app": "okla-candidate"}},
    "experiments": {
        "okla-v1-v2": {
            "salt": "okla-v1-v2",
            "control": "stable",
            "allocation": {"stable": 90, "candidate": 10},
        }
    },
    "limits": {"max_in_flight_per_tenant": 256},
}
STABLE: dict[str, Any] = {"engine": "echo", "n_slots": 64, "echo": {"tag": "stable"}}
CANDIDATE: dict[str, Any] = {"engine": "echo", "n_slots": 64, "echo": {"tag": "candidate"}}


def chat(text: str = "klk, busco una yipeta", **changes: Any) -> dict[str, Any]:
    return {"model": "okla-chat", "messages": [{"role": "user", "content": text}], **changes}


def split(stable: int) -> dict[str, Any]:
    """Return the gateway's experiments with another split."""
    weights = {"stable": stable, "candidate": 100 - stable}
    return {"okla-v1-v2": GATEWAY["experiments"]["okla-v1-v2"] | {"allocation": weights}}


def wait_until(true: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Cluster:
    """A running carril, and what tests look at in it."""

    def __init__(self, home: Path, record: ClusterRecord, port: int) -> None:
        self.home = home
        self.record = record
        self.url = record.http_url
        self.port = port
        self.api = ServeApi(record.dashboard_url, token=record.token())

    def config(
        self,
        gateway: Mapping[str, Any] | None = None,
        stable: Mapping[str, Any] | None = None,
        candidate: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a Serve config; only what is in `user_config` differs between tests."""

        def app(name: str, deployment: str, user_config: object, replicas: int) -> dict[str, Any]:
            is_gateway = deployment == "gateway"
            return {
                "name": name,
                "route_prefix": "/" if is_gateway else None,
                "import_path": f"serve_app.app:build_{deployment}",
                "deployments": [
                    {
                        "name": deployment,
                        "num_replicas": replicas,
                        "max_ongoing_requests": 1024 if is_gateway else 64,
                        "ray_actor_options": {"num_cpus": 0.1},
                        "user_config": user_config,
                    }
                ],
            }

        return {
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "proxy_location": "HeadOnly",
            "applications": [
                app("gateway", "gateway", {**GATEWAY, **(gateway or {})}, 2),
                app("okla-stable", "model", {**STABLE, **(stable or {})}, 2),
                app("okla-candidate", "model", {**CANDIDATE, **(candidate or {})}, 1),
            ],
        }

    def deploy(self, timeout_s: float = 120, **parts: Mapping[str, Any]) -> None:
        """Deploy and wait until every replica runs it, as `carril deploy` does."""
        path = self.home / "serve_config.yaml"
        path.write_text(yaml.safe_dump(self.config(**parts), sort_keys=False), encoding="utf-8")
        deploy_and_wait(self.api, load_serve_config(path), http_url=self.url, timeout_s=timeout_s)

    def deploy_unchecked(self, **parts: Mapping[str, Any]) -> None:
        """Deploy what `carril deploy` would refuse, as `serve deploy` does."""
        self.api.deploy(with_loopback(self.config(**parts)))

    def readyz(self) -> dict[str, Any]:
        body: dict[str, Any] = httpx.get(f"{self.url}/readyz", timeout=10).json()
        return body

    def samples(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """Return a metric's values by (variant, replica), those with the labels only."""
        page = httpx.get(f"{self.url}/metrics", timeout=10).text
        return {
            (sample.labels.get("variant", ""), sample.labels.get("replica", "")): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def total(self, name: str, **labels: str) -> float:
        return sum(self.samples(name, **labels).values())

    def replicas(self, app: str) -> list[psutil.Process]:
        """Return the replica processes of an application."""
        pattern = re.compile(rf"ray::ServeReplica:{re.escape(app)}:")
        found = []
        for process in self.record.members():
            try:
                if pattern.match(" ".join(process.cmdline())):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def pids(self) -> dict[str, set[int]]:
        return {
            app: {process.pid for process in self.replicas(app)}
            for app in ("gateway", "okla-stable", "okla-candidate")
        }

    def wait_ready(self, seconds: float = 60) -> None:
        """Wait for the full number of replicas, all of them ready."""

        def ready() -> bool:
            try:
                state = self.readyz()
            except (httpx.HTTPError, ValueError):
                return False
            replicas = [r for v in state["variants"].values() for r in v["replicas"]]
            return state["status"] == "ready" and len(replicas) == 3 and len(state["gateways"]) == 2

        wait_until(ready, "all replicas ready", seconds)

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Read the event store."""
        address = f"{store_path(self.home).as_uri()}?mode=ro"
        db = sqlite3.connect(address, uri=True)
        try:
            return list(db.execute(sql, parameters))
        finally:
            db.close()

    def logs(self) -> str:
        return "\n".join(
            path.read_text(encoding="utf-8") for path in sorted((self.home / "logs").glob("*"))
        )


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        ports = []
        for _ in range(n):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    # Short, because Unix sockets below it must fit into 107 characters.
    home = Path(tempfile.mkdtemp(prefix="cit-"))
    http, dashboard, gcs = _free_ports(3)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_TOKEN_PATH", str(home / "token"))
        environment.setenv("CARRIL_HOME", str(home))
        # For applications that live in the tests.
        environment.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        record = start_head(
            home=home,
            http_url=f"http://127.0.0.1:{http}",
            ports=Ports.choose(http=http, dashboard=dashboard, gcs=gcs),
            num_cpus=8,
        )
    cluster = Cluster(home, record, http)
    try:
        cluster.deploy()
        yield cluster
    finally:
        stop_cluster(home, record)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster with the reference configuration, whatever the test before left."""
    running_cluster.deploy()
    running_cluster.wait_ready()
    return running_cluster
