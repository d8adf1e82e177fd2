"""What traces cost: the gateway with every request recorded beside the same one without traces.

One cluster, switched by deployments between rounds, which restart nothing; rounds alternate. The
collector is a thread of this process that throws everything away, on the same CPUs, as a sidecar
would be. `sampled` records a tenth of the requests, as busy deployments do. Nothing is asserted
about speed.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks import report
from tests.benchmarks.spread import ratios, spread

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("CARRIL_BENCH_SECONDS", "4"))
BODY = {"model": "echo", "messages": [{"role": "user", "content": "Klk, busco una yipeta"}]}
SAMPLES: dict[str, float | None] = {"untraced": None, "sampled": 0.1, "traced": 1.0}
CLIENTS = (1, 16)


class Server:
    """A cluster of its own, and the tracing that it is told to do."""

    def __init__(self, home: Path) -> None:
        http, self._dashboard, self._ray = (str(_free_port()) for _ in range(3))
        self.url = f"http://127.0.0.1:{http}"
        self._http = http
        self._home = home
        self._config = home / "gateway.yaml"
        self._environment = {**os.environ, "CARRIL_HOME": str(home), "PYTHONPATH": str(ROOT)}

    def up(self) -> None:
        self._write({"enabled": False})
        ports = ["--dashboard-port", self._dashboard, "--ray-port", self._ray]
        self._carril("up", str(self._config), "--port", self._http, *ports)

    def down(self) -> None:
        self._carril("down")

    def trace(self, sample: float | None, endpoint: str) -> None:
        self._write({"enabled": sample is not None, "endpoint": endpoint, "sample": sample or 0})
        self._carril("deploy", str(self._config), "--yes")

    def lost(self) -> float:
        page = httpx.get(f"{self.url}/metrics", timeout=10).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "carril_trace_spans_dropped_total"
        )

    def load(self, clients: int, seconds: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.benchmarks.http_load"]
        command += [f"{self.url}/v1/chat/completions", "--clients", str(clients)]
        command += ["--seconds", str(seconds), "--body", json.dumps(BODY)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        result: dict[str, Any] = json.loads(done.stdout)
        assert result["failures"] == 0, result["first_failure"]
        return result

    def _write(self, tracing: dict[str, Any]) -> None:
        text = (ROOT / "tests/benchmarks/gateway.yaml").read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        for app in config["applications"]:
            for deployment in app.get("deployments", []):
                deployment["user_config"]["tracing"] = tracing
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")

    def _carril(self, *command: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "cluster.cli.main", *command],
            check=True,
            env=self._environment,
            cwd=ROOT,
        )


@pytest.fixture
def server() -> Iterator[Server]:
    # Not under pytest's directory: a long path, and cleaned up by other runs while this one lasts.
    with tempfile.TemporaryDirectory(prefix="carril-bench-") as home:
        server = Server(Path(home))
        try:
            server.up()
            yield server
        finally:
            server.down()


@pytest.mark.timeout(1200)
def test_cost_of_recording_every_request(server: Server) -> None:
    run = report.start("tracing")
    n_rounds = report.rounds(3)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with discarding_collector() as endpoint:
        server.load(16, 2 * SECONDS)
        for number in range(n_rounds):
            names = list(SAMPLES) if number % 2 == 0 else list(reversed(SAMPLES))
            for name in names:
                server.trace(SAMPLES[name], endpoint)
                server.load(16, 1)
                for clients in CLIENTS:
                    found.setdefault((name, clients), []).append(server.load(clients, SECONDS))
        lost = server.lost()

    def values(name: str, clients: int, field: str) -> list[float]:
        return [result[field] for result in found[name, clients]]

    run.publish(
        ratios={
            f"gateway_{name}_{short}_vs_untraced{suffix}": ratios(
                values(name, clients, field), values("untraced", clients, field)
            )
            for name in ("traced", "sampled")
            for clients, suffix in ((16, ""), (1, "_c1"))
            for short, field in (("p50", "p50_ms"), ("rps", "requests_per_s"))
        },
        absolutes={
            f"tracing_{name}_c{clients}_{field}": spread(values(name, clients, field))
            for name in SAMPLES
            for clients in CLIENTS
            for field in ("p50_ms", "p99_ms", "requests_per_s")
        },
        notes={"rounds": n_rounds, "seconds": SECONDS, "spans_lost": lost},
    )


@contextmanager
def discarding_collector() -> Iterator[str]:
    """Run a collector that reads spans and forgets them; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
