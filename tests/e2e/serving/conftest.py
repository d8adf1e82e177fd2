"""The shipped configuration, started the way a user starts it, on ports of its own."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import yaml

ROOT = Path(__file__).parents[3]


class Server(NamedTuple):
    """A running carril."""

    url: str
    home: Path
    config: dict[str, Any]
    carril: Callable[..., "subprocess.CompletedProcess[str]"]

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **options)

    def user_config(self, app: str) -> dict[str, Any]:
        """Return the `user_config` of an application, to be changed in place."""
        [found] = [item for item in self.config["applications"] if item["name"] == app]
        config: dict[str, Any] = found["deployments"][0]["user_config"]
        return config

    def write(self) -> Path:
        """Write the changed config to a file for `carril deploy`."""
        path = self.home / "changed.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Path("serve_config.yaml")) as started:
        yield started


@contextmanager
def running(path: Path) -> Iterator[Server]:
    """Run carril with a config, absolute or relative to the repository, on ports of its own."""
    with tempfile.TemporaryDirectory(prefix="carril-e2e-") as directory:
        home = Path(directory)
        http, dashboard, ray = (_free_port() for _ in range(3))
        environment = {**os.environ, "CARRIL_HOME": directory}

        def carril(*arguments: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [sys.executable, "-m", "cluster.cli.main", *arguments],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )

        ports = ["--port", str(http), "--dashboard-port", str(dashboard), "--ray-port", str(ray)]
        try:
            started = carril("up", str(path), *ports)
            assert started.returncode == 0, started.stderr
            config = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
            config["http_options"]["port"] = http
            yield Server(f"http://127.0.0.1:{http}", home, config, carril)
        finally:
            carril("down", "--now")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
