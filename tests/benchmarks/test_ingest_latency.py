"""What recording events costs the requests: p99 with and without 2,000 events a second of ingest.

In alternating rounds: requests of no experiment while nothing is ingested, and requests of new
sessions, each of which waits until its exposure is durable, while 2,000 events a second go to the
same writer. The difference of the two p99 is what experiments and a busy log add.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.benchmarks import report
from tests.benchmarks.gateway_cluster import ENROLLED, PLAIN, BenchCluster, load, serving
from tests.benchmarks.machine import ROOT
from tests.benchmarks.spread import spread

SECONDS = float(os.environ.get("CARRIL_BENCH_SECONDS", "4"))
EVENTS_PER_S = 2_000
CLIENTS = (1, 4)
"""One leaves the CPUs time to breathe; four take all of them where there are two."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[BenchCluster]:
    with serving() as cluster:
        yield cluster


@pytest.mark.timeout(900)
def test_ingest_latency(cluster: BenchCluster) -> None:
    run = report.start("ingest_latency")
    absolutes = {}
    for clients in CLIENTS:
        absolutes |= compare(cluster, clients)
    run.publish(
        ratios={},
        absolutes=absolutes,
        notes={"clients": str(CLIENTS), "events_per_s": EVENTS_PER_S, "seconds_per_round": SECONDS},
    )


def compare(cluster: BenchCluster, clients: int) -> dict[str, Any]:
    """Return the figures with and without ingest of so many clients in a closed loop."""
    for target in (PLAIN, ENROLLED):
        load(cluster.url, target, clients=clients, seconds=2, name=f"warm-{clients}")
    off: list[dict[str, Any]] = []
    on: list[dict[str, Any]] = []
    for number in range(report.rounds(5)):
        for recorded in (False, True) if number % 2 == 0 else (True, False):
            if recorded:
                with ingest(cluster):
                    on.append(_load(cluster, clients, recorded=True, number=number))
            else:
                off.append(_load(cluster, clients, recorded=False, number=number))
    figures = {}
    for figure in ("p50_ms", "p99_ms"):
        name = f"c{clients}_{figure}"
        figures[f"ingest_off_{name}"] = spread((one[figure] for one in off), "ms")
        figures[f"ingest_on_{name}"] = spread((one[figure] for one in on), "ms")
        figures[f"ingest_added_{name}"] = spread(
            (with_[figure] - without[figure] for with_, without in zip(on, off, strict=True)), "ms"
        )
    return figures


def _load(cluster: BenchCluster, clients: int, *, recorded: bool, number: int) -> dict[str, Any]:
    target = ENROLLED if recorded else PLAIN
    return load(
        cluster.url, target, clients=clients, seconds=SECONDS, name=f"ingest-{clients}-{number}"
    )


@contextmanager
def ingest(cluster: BenchCluster) -> Iterator[None]:
    """Send events to the cluster's writer at a steady rate until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.paced_events", str(EVENTS_PER_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=cluster.driver_environment,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "sending\n"
        yield
        process.stdin.close()
        told = process.stdout.read()
        process.wait(30)
        rate = float(told)
        assert rate >= 0.95 * EVENTS_PER_S, f"only {rate:.0f} events/s were ingested"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
