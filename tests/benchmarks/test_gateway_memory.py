"""Whether the memory of gateway and model replicas grows with the number of requests.

20,000 requests of four kinds; the memory that each replica has for itself (USS) is sampled every
1,000. A straight line through the samples after warm-up gives KiB per 1,000 requests, with its 95 %
interval. The bare two hops on the same cluster get as many requests, sample by sample: what their
replicas grow by is Ray Serve's. That the gateway itself keeps nothing,
`tests/unit/gateway/test_memory.py` shows by counting its objects.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psutil
import pytest
from scipy import stats

from tests.benchmarks import report
from tests.benchmarks.gateway_cluster import (
    CACHED,
    CHAT_PATH,
    ENROLLED,
    MESSAGES,
    PLAIN,
    TWO_HOP,
    BenchCluster,
    Target,
    load,
    serving,
)
from tests.benchmarks.spread import Spread

REQUESTS = int(os.environ.get("CARRIL_BENCH_REQUESTS", "20000"))
WARM_UP = 4_000
"""Until then caches, pools and arenas fill: the response cache takes 10,000 entries at most, and
those of the requests here are one."""
PER_SAMPLE = 1_000
KINDS = (
    PLAIN,
    ENROLLED,
    CACHED,
    Target(CHAT_PATH, {"model": "echo", "messages": MESSAGES, "user": "u", "max_tokens": 3}),
)
NEGLIGIBLE_KIB = 50
"""One MiB over 20,000 requests is what allocators move by themselves."""


class Slope(NamedTuple):
    """KiB per 1,000 requests."""

    estimate: float
    low: float
    high: float


@pytest.fixture(scope="module")
def cluster() -> Iterator[BenchCluster]:
    with serving() as cluster:
        yield cluster


@pytest.mark.timeout(1800)
def test_memory_does_not_grow(cluster: BenchCluster) -> None:
    run = report.start("gateway_memory")
    replicas = {
        f"{app}-{number}": process
        for app in ("gateway", "echo-a", "two-hop")
        for number, process in enumerate(cluster.replicas(app))
    }
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in replicas}
    sent = {"carril": 0, "two-hop": 0}
    while min(sent.values()) < WARM_UP + REQUESTS:
        for of, kinds in (("carril", KINDS), ("two-hop", (TWO_HOP,))):
            sent[of] += _some(cluster, kinds, name=f"memory-{of}-{sent[of]}")
        for name, process in replicas.items():
            n = sent["two-hop" if name.startswith("two-hop") else "carril"]
            samples[name].append((n, _memory(process)))
    slopes = {
        name: slope([sample for sample in taken if sample[0] > WARM_UP])
        for name, taken in samples.items()
    }
    run.publish(
        ratios={},
        absolutes={
            f"memory_{name}_kib_per_1000_requests": Spread(
                found.estimate, found.low, found.high, len(samples[name]), "KiB (95 % interval)"
            )
            for name, found in slopes.items()
        },
        notes={**{f"requests_{of}": n for of, n in sent.items()}, "warm_up": WARM_UP},
    )
    for name, found in slopes.items():
        assert found.low <= NEGLIGIBLE_KIB, f"{name} grows: {slopes}"


def slope(samples: list[tuple[int, int]]) -> Slope:
    """Fit a line by the medians of slopes (Theil-Sen), which a single jump does not tilt.

    References:
        scipy.stats.theilslopes
    """
    requests, memory = zip(*samples, strict=True)
    fit = stats.theilslopes([value / 1024 for value in memory], [n / 1000 for n in requests], 0.95)
    return Slope(round(fit.slope, 1), round(fit.low_slope, 1), round(fit.high_slope, 1))


def _some(cluster: BenchCluster, kinds: Sequence[Target], *, name: str) -> int:
    """Send about as many requests as belong between two samples, of every kind."""
    sent = 0
    while sent < PER_SAMPLE:
        for kind in kinds:
            answer = load(cluster.url, kind, clients=16, seconds=0.8, name=f"{name}-{sent}")
            sent += answer["requests"]
    return sent


def _memory(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)
