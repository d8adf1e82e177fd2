"""What the gateway adds to a bare two-hop Ray Serve application, measured side by side.

Both run on one cluster with the same proxy, the same number of ingress replicas and the same load
program. Rounds alternate (A B C D, D C B A, ...); figures are medians over rounds. Nothing is
asserted about speed: the numbers depend on the machine, the ratios are what to read.
"""

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("CARRIL_BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("CARRIL_BENCH_SECONDS", "4"))
WARM_UP_S = 3.0
MESSAGES = [{"role": "user", "content": "Klk, busco una yipeta pa la familia"}]


class Target(NamedTuple):
    """Something to put under load."""

    path: str
    body: dict[str, Any]
    sessions: bool = False


TARGETS = {
    "two_hop": Target("/two-hop/", {"messages": MESSAGES}),
    "gateway": Target("/v1/chat/completions", {"model": "echo", "messages": MESSAGES}),
    "gateway_enrolled": Target(
        "/v1/chat/completions", {"model": "split", "messages": MESSAGES}, sessions=True
    ),
    "gateway_cached": Target(
        "/v1/chat/completions", {"model": "echo", "messages": MESSAGES, "temperature": 0}
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    # Not under pytest's directory: a long path, and cleaned up by other runs while this one lasts.
    with tempfile.TemporaryDirectory(prefix="carril-bench-") as home:
        yield from _serve(home)


def _serve(home: str) -> Iterator[str]:
    ports = [_free_port() for _ in range(3)]
    environment = {**os.environ, "CARRIL_HOME": home, "PYTHONPATH": str(ROOT)}
    carril = [sys.executable, "-m", "cluster.cli.main"]
    http, dashboard, ray = (str(port) for port in ports)
    up = [*carril, "up", str(ROOT / "tests/benchmarks/gateway.yaml"), "--port", http]
    try:
        subprocess.run(
            [*up, "--dashboard-port", dashboard, "--ray-port", ray],
            check=True,
            env=environment,
            cwd=ROOT,
        )
        yield f"http://127.0.0.1:{http}"
    finally:
        subprocess.run([*carril, "down"], check=False, env=environment, cwd=ROOT)


@pytest.mark.timeout(1200)
def test_overhead_against_two_hop(server: str) -> None:
    rounds: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for target in TARGETS.values():
        _load(server, target, clients=16, seconds=WARM_UP_S)
    for number in range(ROUNDS):
        names = list(TARGETS) if number % 2 == 0 else list(reversed(TARGETS))
        for clients in (1, 16):
            for name in names:
                result = _load(server, TARGETS[name], clients=clients, seconds=SECONDS)
                assert result["failures"] == 0, result["first_failure"]
                rounds.setdefault((name, clients), []).append(result)
    report = _report(rounds)
    _publish(report)
    assert set(report["ratios"]) >= {"gateway_p50_vs_two_hop"}


def _load(server: str, target: Target, *, clients: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.http_load", server + target.path]
    command += ["--clients", str(clients), "--seconds", str(seconds)]
    command += ["--body", json.dumps(target.body)]
    if target.sessions:
        command.append("--sessions")
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _report(rounds: dict[tuple[str, int], list[dict[str, Any]]]) -> dict[str, Any]:
    absolutes: dict[str, Any] = {}
    for (name, clients), results in rounds.items():
        for field in ("p50_ms", "p99_ms", "requests_per_s"):
            values = sorted(result[field] for result in results)
            absolutes[f"{name}_c{clients}_{field}"] = {
                "median": statistics.median(values),
                "min": values[0],
                "max": values[-1],
            }

    def ratio(name: str, clients: int, field: str) -> float:
        # The ratio of each round, not of the medians: a slow moment of the machine hits both.
        pairs = zip(rounds[name, clients], rounds["two_hop", clients], strict=True)
        return round(statistics.median(ours[field] / bare[field] for ours, bare in pairs), 3)

    ratios = {
        "gateway_p50_vs_two_hop": ratio("gateway", 16, "p50_ms"),
        "gateway_p50_vs_two_hop_c1": ratio("gateway", 1, "p50_ms"),
        "gateway_rps_vs_two_hop": ratio("gateway", 16, "requests_per_s"),
        "gateway_enrolled_p50_vs_two_hop": ratio("gateway_enrolled", 16, "p50_ms"),
        "gateway_enrolled_p50_vs_two_hop_c1": ratio("gateway_enrolled", 1, "p50_ms"),
        "gateway_cached_p50_vs_two_hop": ratio("gateway_cached", 16, "p50_ms"),
    }
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpus": os.cpu_count(),
            "cpu": _cpu_name(),
            "python": platform.python_version(),
        },
        "rounds": ROUNDS,
        "seconds_per_round": SECONDS,
        "ratios": ratios,
        "absolutes": absolutes,
    }


def _publish(report: dict[str, Any]) -> None:
    directory = Path(os.environ.get("CARRIL_HOME", ROOT / "var")) / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "latest.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    lines = [f"{report['machine']['cpu']}, {report['machine']['cpus']} CPUs", ""]
    lines += ["| 16 clients | p50 ms | p99 ms | requests/s |", "| --- | --- | --- | --- |"]
    for name in TARGETS:
        cells = (
            f"{report['absolutes'][f'{name}_c16_{field}']['median']:.1f}"
            for field in ("p50_ms", "p99_ms", "requests_per_s")
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| ratio | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in report["ratios"].items()]
    text = "\n".join(lines) + "\n"
    (directory / "latest.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")  # noqa: T201 (what `make bench` shows)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
