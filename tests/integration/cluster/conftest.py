"""One real cluster for this folder, started and stopped by the command line itself."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.home import ray_temp_dir
from cluster.local_cluster import ClusterRecord
from cluster.serve_api import ServeApi

ROOT = Path(__file__).resolve().parents[3]
TINY = "tests.integration.cluster.tiny_apps"
UP_TIMEOUT_S = 180


def tiny_config() -> dict[str, Any]:
    """Two applications; `pair` has a second deployment that the file does not list."""
    return {
        "http_options": {"host": "127.0.0.1"},
        "applications": [
            {
                "name": "single",
                "route_prefix": "/single",
                "import_path": f"{TINY}:build",
                "deployments": [{"name": "Front", "user_config": {"n": 1}}],
            },
            {
                "name": "pair",
                "route_prefix": "/pair",
                "import_path": f"{TINY}:build_pair",
                "deployments": [{"name": "Front", "user_config": {"n": 1}, "num_replicas": 2}],
            },
        ],
    }


def free_ports(count: int) -> list[int]:
    """Return ports that are free now and differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


@dataclass(frozen=True)
class Sandbox:
    """A CARRIL_HOME of its own, with its own token and ports."""

    directory: Path
    environment: dict[str, str]
    ports: tuple[int, int, int]

    def carril(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli.main", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=UP_TIMEOUT_S + 60,
        )

    def up(self, config: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Start the cluster on its own ports."""
        names = ("--port", "--dashboard-port", "--ray-port")
        pairs = [item for pair in zip(names, map(str, self.ports), strict=True) for item in pair]
        return self.carril("up", str(config), "--timeout", str(UP_TIMEOUT_S), *pairs, *options)

    def write(self, config: dict[str, Any], name: str = "serve.yaml") -> Path:
        """Write a config file."""
        path = self.directory / name
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return path

    @property
    def record(self) -> ClusterRecord:
        """The running cluster."""
        record = ClusterRecord.load(self.directory / "var")
        assert record is not None
        return record

    def api(self) -> ServeApi:
        """Return a client of the running cluster."""
        return ServeApi(self.record.dashboard_url, token=self.record.token())


@pytest.fixture(scope="session")
def new_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Sandbox]]:
    made: list[Path] = []

    def make() -> Sandbox:
        directory = tmp_path_factory.mktemp("carril")
        made.append(directory)
        unset = ("RAY_DASHBOARD_ADDRESS", "RAY_ADDRESS", "CARRIL_URL", "RAY_AUTH_MODE")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment |= {
            "CARRIL_HOME": str(directory / "var"),
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            # Seconds that a test would only wait.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.2",
        }
        http, dashboard, gcs = free_ports(3)
        return Sandbox(directory, environment, (http, dashboard, gcs))

    yield make
    for directory in made:
        # Long homes have their sockets elsewhere; see `cluster.home`.
        shutil.rmtree(ray_temp_dir(directory / "var").parent, ignore_errors=True)


@pytest.fixture(scope="session")
def sandbox(new_sandbox: Callable[[], Sandbox]) -> Iterator[Sandbox]:
    box = new_sandbox()
    try:
        result = box.up(box.write(tiny_config()))
        assert result.returncode == 0, result.stderr
        yield box
    finally:
        box.carril("down", "--now")
