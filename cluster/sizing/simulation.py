"""A discrete-event simulation of gateways and replicas.

What is modelled:

* A gateway takes a fixed time per request, one at a time; requests take turns on the gateways.
* A request goes to the less loaded of two replicas drawn from those that hold fewer than
  `max_ongoing`; with none it waits in front, first come first served. So does Serve.
* A replica has `slots`. The prompts of requests in a slot are computed one after the other; where
  others decode meanwhile, prompts get `prefill_share` of the time and decoding the rest. Sequences
  that decode advance together, at a total speed that depends on how many they are: the measured
  table. An answer's first token is there when its prompt is done.

What is not: time on the network, replicas that start, fail or swap, requests that are cancelled or
answered from the cache, memory for KV running out, machines that slow each other down. Prompts
share nothing beyond what `prompt_tokens` leaves out.
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What serves."""

    replicas: int
    slots: int
    totals: Floats
    """Decoded tokens/s of a replica by active sequences, (slots + 1,) float64."""
    prefill_tokens_per_s: float | None = None
    prefill_share: float = 0.5
    max_ongoing: int = 16
    """Requests that a replica holds, waiting ones included, as Serve's `max_ongoing_requests`."""
    gateways: int = 1
    router_s: float = 0.0
    """Seconds of a gateway's time per request."""

    def capacity(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Return the requests/s that one replica can sustain with all slots taken."""
        prefill_s = prompt_tokens / self.prefill_tokens_per_s if self.prefill_tokens_per_s else 0.0
        return 1.0 / max(1e-9, prefill_s + answer_tokens / float(self.totals[self.slots]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Who comes when, and with what. All (n,) float64, arrivals in seconds, rising."""

    arrivals: Floats
    prompt_tokens: Floats
    """Tokens to compute; those in a cached prefix are left out."""
    answer_tokens: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds since a request arrived, (n,) float64 each, in the order of the arrivals."""

    slot: Floats
    """Until it got a slot: what it waited."""
    first: Floats
    """Until its first token."""
    total: Floats
    """Until its last."""


@dataclass(eq=False, slots=True)
class _Replica:
    waiting: deque[int] = field(default_factory=deque)
    prompts: deque[list[float]] = field(default_factory=deque)
    """[request, tokens left], the first of them is being computed."""
    decoding: list[tuple[float, int]] = field(default_factory=list)
    """Heap of (progress at which it ends, request)."""
    progress: float = 0.0
    """Tokens that a sequence would have decoded that was there from the start."""
    at_s: float = 0.0
    version: int = 0
    """Events of earlier versions are void."""
    prompt_is_next: bool = False
    """Whether the next event is the end of a prompt, not of an answer."""

    @property
    def in_slots(self) -> int:
        return len(self.prompts) + len(self.decoding)

    @property
    def held(self) -> int:
        return self.in_slots + len(self.waiting)


def simulate(system: System, traffic: Traffic, *, rng: np.random.Generator) -> Times:
    """Play a load through a system, until the last request is answered.

    Args:
        system: What serves.
        traffic: What is asked.
        rng: Draws the two replicas of each request.
    """
    return _Run(system, traffic, rng).play()


class _Run:
    def __init__(self, system: System, traffic: Traffic, rng: np.random.Generator) -> None:
        self._system = system
        self._traffic = traffic
        self._rng = rng
        n = len(traffic.arrivals)
        self._slot, self._first, self._end = (np.full(n, np.nan) for _ in range(3))
        self._replicas = [_Replica() for _ in range(system.replicas)]
        self._in_front: deque[int] = deque()
        self._events: list[tuple[float, int, int, int]] = []
        """(time, order, replica, version), replica -1 for an arrival, whose version is its number.
        """
        self._order = itertools.count()
        self._totals = system.totals.tolist()
        self._prefill = system.prefill_tokens_per_s or 0.0

    def play(self) -> Times:
        for number, at_s in enumerate(self._through_gateways()):
            heapq.heappush(self._events, (at_s, next(self._order), -1, number))
        while self._events:
            at_s, _, replica, version = heapq.heappop(self._events)
            if replica < 0:
                self._route(version, at_s)
            elif self._replicas[replica].version == version:
                self._step(replica, at_s)
        arrivals = self._traffic.arrivals
        return Times(
            slot=self._slot - arrivals, first=self._first - arrivals, total=self._end - arrivals
        )

    def _through_gateways(self) -> list[float]:
        free = [0.0] * self._system.gateways
        out = []
        for number, arrival in enumerate(self._traffic.arrivals.tolist()):
            gateway = number % len(free)
            free[gateway] = max(free[gateway], arrival) + self._system.router_s
            out.append(free[gateway])
        return out

    def _route(self, request: int, at_s: float) -> None:
        open_ = [
            index
            for index, replica in enumerate(self._replicas)
            if replica.held < self._system.max_ongoing
        ]
        if not open_:
            self._in_front.append(request)
            return
        if len(open_) > 2:
            first = int(self._rng.integers(len(open_)))
            second = int(self._rng.integers(len(open_) - 1))
            open_ = [open_[first], open_[second + (second >= first)]]
        elif len(open_) == 2 and self._rng.random() < 0.5:
            open_.reverse()
        index = min(open_, key=lambda i: self._replicas[i].held)
        self._advance(self._replicas[index], at_s)
        self._replicas[index].waiting.append(request)
        self._fill(index, at_s)

    def _fill(self, index: int, at_s: float) -> None:
        """Give free slots to those who wait, and say when the replica's next event is."""
        replica = self._replicas[index]
        while replica.held < self._system.max_ongoing and self._in_front:
            replica.waiting.append(self._in_front.popleft())
        while replica.waiting and replica.in_slots < self._system.slots:
            request = replica.waiting.popleft()
            self._slot[request] = at_s
            tokens = float(self._traffic.prompt_tokens[request])
            if self._prefill and tokens > 0:
                replica.prompts.append([request, tokens])
            else:
                self._begin(replica, request, at_s)
        replica.version += 1
        decode_rate, prompt_rate = self._rates(replica)
        never = float("inf")
        answer_s = (
            (replica.decoding[0][0] - replica.progress) / decode_rate if replica.decoding else never
        )
        prompt_s = replica.prompts[0][1] / prompt_rate if replica.prompts else never
        replica.prompt_is_next = prompt_s < answer_s
        left_s = min(answer_s, prompt_s)
        if left_s < never:
            due_s = at_s + max(0.0, left_s)
            heapq.heappush(self._events, (due_s, next(self._order), index, replica.version))

    def _begin(self, replica: _Replica, request: int, at_s: float) -> None:
        self._first[request] = at_s
        ends_at = replica.progress + float(self._traffic.answer_tokens[request])
        heapq.heappush(replica.decoding, (ends_at, request))

    def _step(self, index: int, at_s: float) -> None:
        replica = self._replicas[index]
        self._advance(replica, at_s)
        # What is due ends now, whatever rounding has left of it.
        if replica.prompt_is_next:
            self._begin(replica, int(replica.prompts.popleft()[0]), at_s)
        else:
            replica.progress, request = heapq.heappop(replica.decoding)
            self._end[request] = at_s
        self._fill(index, at_s)

    def _advance(self, replica: _Replica, at_s: float) -> None:
        passed_s, replica.at_s = at_s - replica.at_s, at_s
        decode_rate, prompt_rate = self._rates(replica)
        replica.progress += passed_s * decode_rate
        if replica.prompts:
            replica.prompts[0][1] = max(0.0, replica.prompts[0][1] - passed_s * prompt_rate)

    def _rates(self, replica: _Replica) -> tuple[float, float]:
        """Return tokens/s of each decoding sequence, and of the prompt being computed."""
        n = len(replica.decoding)
        each = self._totals[n] / n if n else 0.0
        if not replica.prompts:
            return each, 0.0
        share = self._system.prefill_share if n else 1.0
        return each * (1 - share), self._prefill * share
