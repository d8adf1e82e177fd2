"""Whether the memory of gateway and model replicas grows with the number of requests.

20,000 requests of four kinds; the memory that belongs to each replica alone (PSS) is sampled every
1,000. A straight line through the samples after warm-up gives KiB per 1,000 requests, with its 95 %
interval: no growth is shown where the interval holds 0 or the slope is negligible.
"""

import os
from collections.abc import Iterator
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
        for app in ("gateway", "echo-a")
        for number, process in enumerate(cluster.replicas(app))
    }
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in replicas}
    n = 0
    while n < WARM_UP + REQUESTS:
        n += _some(cluster, number=n)
        for name, process in replicas.items():
            samples[name].append((n, _pss(process)))
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
        notes={"requests": n, "warm_up": WARM_UP},
    )
    for name, found in slopes.items():
        # Two MiB over 20,000 requests is what allocators move by themselves.
        assert found.low <= 100, f"{name} grows: {found}"


def slope(samples: list[tuple[int, int]]) -> Slope:
    """Fit a line by the medians of slopes (Theil-Sen), which a single jump does not tilt.

    References:
        scipy.stats.theilslopes
    """
    requests, pss = zip(*samples, strict=True)
    fit = stats.theilslopes([value / 1024 for value in pss], [n / 1000 for n in requests], 0.95)
    return Slope(round(fit.slope, 1), round(fit.low_slope, 1), round(fit.high_slope, 1))


def _some(cluster: BenchCluster, *, number: int) -> int:
    """Send about as many requests as belong between two samples, of every kind."""
    sent = 0
    while sent < PER_SAMPLE:
        for kind in KINDS:
            answer = load(
                cluster.url, kind, clients=16, seconds=0.8, name=f"memory-{number}-{sent}"
            )
            sent += answer["requests"]
    return sent


def _pss(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss)
