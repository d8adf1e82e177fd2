"""How many replicas a model needs: a pure function of what the replicas and their callers report.

A replica is added when a new request would wait longer for a slot than `target_wait_s`, or when
running requests fill the KV memory; one is taken away only when the others would still have room to
spare. What lies between changes nothing, so that the number does not swing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_MAX_FACTOR = 2
"""One decision at most doubles or halves the replicas: estimates far from the present are poor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What one replica has to do, averaged over the look-back period."""

    running: float
    """Requests in a slot."""
    waiting: float
    """Requests that the replica holds without a slot."""
    slots: float
    """Requests that it can decode together."""
    kv_used: float
    """KV cells of running requests; kept prefixes, which can be evicted, are not counted."""
    kv_capacity: float
    """KV cells; 0 where an engine has none to count."""
    service_s: float
    """Seconds that a request holds a slot, lately; 0 where nothing has run yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingTargets:
    """What is wanted; see `serve_app.config.ScalingConfig`."""

    target_wait_s: float
    kv_high: float
    low_rate: float


class Wanted(NamedTuple):
    """A decision, and why."""

    replicas: int
    reason: str


def expected_wait_s(*, waiting: float, service_s: float, places: float) -> float:
    """Return how long a request waits that comes behind `waiting` others.

    `places` slots give one place free every `service_s / places` seconds.

    Args:
        waiting: Requests ahead of it without a slot.
        service_s: Seconds that a request holds a slot.
        places: Slots that work off the queue.
    """
    return waiting * service_s / max(places, 1.0)


def wanted_replicas(
    loads: Sequence[ReplicaLoad], queued: float, targets: ScalingTargets, *, aimed_at: int
) -> Wanted:
    """Return how many replicas the load needs.

    Args:
        loads: One entry per replica that has reported; empty leaves the number as it is.
        queued: Requests that wait in front of all replicas.
        targets: What is wanted.
        aimed_at: Replicas that were decided on last; more than report while new ones start. They
            are counted as if they were there, else a slow start would be answered by more starts.

    Returns:
        The number before the caller's bounds and delays.
    """
    if not loads or aimed_at < 1:
        return Wanted(aimed_at, "no replica has reported")
    n = aimed_at
    running = sum(load.running for load in loads)
    waiting = queued + sum(load.waiting for load in loads)
    slots = sum(load.slots for load in loads) / len(loads)
    capacity = sum(load.kv_capacity for load in loads) / len(loads)
    kv_used = sum(load.kv_used for load in loads)
    # A replica that has run nothing yet cannot say how long a request takes.
    busy = [load for load in loads if load.service_s > 0]
    weight = sum(load.running for load in busy)
    service_s = (
        sum(load.running * load.service_s for load in busy) / weight
        if weight > 0
        else max((load.service_s for load in busy), default=0.0)
    )
    # Where memory is full, requests wait beside free slots: a replica takes as many as it runs now.
    full = capacity > 0 and kv_used / (len(loads) * capacity) > targets.kv_high
    places = max(1.0, min(slots, running / len(loads)) if full else slots)

    up, why = n, "within bounds"
    wait_s = expected_wait_s(waiting=waiting, service_s=service_s, places=n * places)
    if wait_s > targets.target_wait_s:
        enough = math.ceil(waiting * service_s / (places * targets.target_wait_s))
        # More replicas than it takes to run everything at once would have nothing to do.
        enough = min(enough, math.ceil((running + waiting) / places))
        up = max(n + 1, enough)
        why = f"a new request would wait {wait_s:.1f} s, {waiting:.1f} are before it"
    kv_share = kv_used / (n * capacity) if capacity > 0 else 0.0
    if kv_share > targets.kv_high:
        enough = max(n + 1, math.ceil(kv_used / (capacity * targets.kv_high)))
        if enough > up:
            up, why = enough, f"{kv_share:.0%} of the KV memory is in use"
    if up > n:
        return Wanted(min(up, n * _MAX_FACTOR), why)

    down = max(1, math.ceil((running + waiting) / (targets.low_rate * slots)))
    if capacity > 0:
        down = max(down, math.ceil(kv_used / (targets.low_rate * capacity)))
    if down < n:
        fewer = max(down, math.ceil(n / _MAX_FACTOR))
        return Wanted(fewer, f"{running + waiting:.1f} requests leave room on {fewer}")
    return Wanted(n, why)


class ServiceClock:
    """How long a request holds a slot, lately.

    Time on test over departures, both forgotten exponentially: the maximum-likelihood estimate of a
    mean duration that also counts requests still running (for exponential durations; biased low
    for more regular ones while few have ended, never below what is already spent).

    Args:
        memory_s: Time constant of forgetting.
    """

    def __init__(self, *, memory_s: float = 60.0) -> None:
        self._memory_s = memory_s
        self._at_s: float | None = None
        self._running = 0
        self._slot_seconds = 0.0
        self._departures = 0.0

    def observe(self, now_s: float, running: int, *, departed: int = 0) -> None:
        """Take note of a change, or just of the present.

        Args:
            now_s: Monotonic time.
            running: Requests in a slot from now on.
            departed: Requests that have just left one.
        """
        if self._at_s is not None:
            passed_s = max(0.0, now_s - self._at_s)
            keep = math.exp(-passed_s / self._memory_s)
            # The integral of what was running, each part of it forgotten by its own age.
            self._slot_seconds = self._slot_seconds * keep + self._running * self._memory_s * (
                1 - keep
            )
            self._departures *= keep
        self._at_s = now_s
        self._running = running
        self._departures += departed

    @property
    def service_s(self) -> float:
        """Seconds that a request holds a slot; 0 while nothing is known."""
        return self._slot_seconds / max(self._departures, 1.0)
