"""What recording events costs the requests: p99 with and without 2,000 events a second of ingest.

In alternating rounds: requests of no experiment while nothing is ingested, and requests of new
sessions, each of which waits until its exposure is durable, while 2,000 events a second go to the
same writer. The difference of the two p99 is what experiments and a busy log add. Requests come as
users send them, by a Poisson process at a rate that leaves CPUs idle; and as fast as clients can,
where what is added is a share of CPUs that have none to spare.
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
RATE = float(os.environ.get("CARRIL_BENCH_RATE", "100"))
"""Requests a second of the open loop: a quarter of what two CPUs can do."""
SHAPES: dict[str, dict[str, Any]] = {
    "open": {"clients": 64, "rate": RATE},
    "c1": {"clients": 1},
    "c4": {"clients": 4},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[BenchCluster]:
    with serving() as cluster:
        yield cluster


@pytest.mark.timeout(900)
def test_ingest_latency(cluster: BenchCluster) -> None:
    run = report.start("ingest_latency")
    absolutes: dict[str, Any] = {}
    for shape in SHAPES:
        absolutes |= compare(cluster, shape)
    run.publish(
        ratios={},
        absolutes=absolutes,
        notes={"rate": RATE, "events_per_s": EVENTS_PER_S, "seconds_per_round": SECONDS},
    )


def compare(cluster: BenchCluster, shape: str) -> dict[str, Any]:
    """Return the figures with and without ingest under a load of this shape."""
    for target in (PLAIN, ENROLLED):
        load(cluster.url, target, seconds=2, name=f"warm-{shape}", **SHAPES[shape])
    off: list[dict[str, Any]] = []
    on: list[dict[str, Any]] = []
    for number in range(report.rounds(5)):
        for recorded in (False, True) if number % 2 == 0 else (True, False):
            if recorded:
                with ingest(cluster):
                    on.append(_load(cluster, shape, recorded=True, number=number))
            else:
                off.append(_load(cluster, shape, recorded=False, number=number))
    figures = {}
    for figure in ("p50_ms", "p99_ms"):
        name = f"{shape}_{figure}"
        figures[f"ingest_off_{name}"] = spread((one[figure] for one in off), "ms")
        figures[f"ingest_on_{name}"] = spread((one[figure] for one in on), "ms")
        figures[f"ingest_added_{name}"] = spread(
            (with_[figure] - without[figure] for with_, without in zip(on, off, strict=True)), "ms"
        )
    return figures


def _load(cluster: BenchCluster, shape: str, *, recorded: bool, number: int) -> dict[str, Any]:
    target = ENROLLED if recorded else PLAIN
    name = f"ingest-{shape}-{number}"
    return load(cluster.url, target, seconds=SECONDS, name=name, **SHAPES[shape])


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
