"""From speeds and demand to a number of replicas: the smallest that keeps the promise."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from cluster.errors import CommandError
from cluster.sizing.demand import Demand
from cluster.sizing.simulation import Floats, System, simulate

_WARM_UP_RATE = 0.2
"""Share of each run that is thrown away: it begins with an empty system."""
_MORE = 2
"""Sizes beyond the smallest that suffices, to show what one more would bring."""
_ROUTER_LOAD = 0.7
"""Share of its time that a gateway is planned to be busy."""
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is promised; None promises nothing."""

    first_p95_s: float | None = None
    """95 % of the answers begin within this time."""
    total_p95_s: float | None = None
    """95 % of the answers are complete within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to simulate."""

    requests: int = 4000
    """Per run."""
    runs: int = 8
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over independent runs, with the half width of its 95 % interval (Student's t)."""

    value: float
    error: float

    @property
    def worst(self) -> float:
        """Upper end of the interval."""
        return self.value + self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One number of replicas, simulated."""

    replicas: int
    nodes: int
    load: float
    """Demand in terms of what the replicas can sustain with all slots taken."""
    slots_busy: Estimate
    """Share of the slots that is taken, on average."""
    wait_s: dict[str, Estimate]
    """Until a request has a slot, by p50, p95 and p99."""
    first_s: dict[str, Estimate]
    """Until the first token."""
    total_s: dict[str, Estimate]
    """Until the last token."""
    meets_goal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How many replicas it takes."""

    capacity: float
    """Requests/s that one replica can sustain."""
    gateways: int
    needed: int | None
    """Replicas; None if no size up to the limit suffices."""
    nodes: int | None
    sizes: tuple[Size, ...]


def gateways_for(rate: float, router_s: float) -> int:
    """Return how many gateway replicas a rate needs."""
    return max(1, math.ceil(rate * router_s / _ROUTER_LOAD))


def size_for(
    demand: Demand,
    system: System,
    goal: Goal,
    *,
    replicas_per_node: int = 1,
    max_replicas: int = 64,
    effort: Effort = Effort(),
    on_size: Callable[[int], None] | None = None,
) -> Answer:
    """Simulate rising numbers of replicas until the goal is met, and some beyond.

    Args:
        demand: What is asked.
        system: What serves; its `replicas` are what is looked for.
        goal: What is promised. It is met if the upper ends of the intervals are within it.
        replicas_per_node: Replicas that a machine holds.
        max_replicas: Where to give up.
        effort: How long to simulate.
        on_size: Called with each number before it is simulated.

    Raises:
        CommandError: If a request misses the goal even when it is alone.
    """
    _check_alone(demand, system, goal)
    capacity = system.capacity(demand.mean_prompt_tokens, demand.mean_answer_tokens)
    # From the smallest size that does not fall behind for ever.
    first = math.floor(demand.rate / capacity) + 1
    sizes: list[Size] = []
    needed: int | None = None
    for replicas in range(first, max_replicas + 1):
        if needed is not None and replicas > needed + _MORE:
            break
        if on_size is not None:
            on_size(replicas)
        found = _simulate_size(
            demand,
            replace(system, replicas=replicas),
            goal,
            nodes=math.ceil(replicas / replicas_per_node),
            load=demand.rate / (capacity * replicas),
            effort=effort,
        )
        sizes.append(found)
        if needed is None and found.meets_goal:
            needed = replicas
    return Answer(
        capacity=capacity,
        gateways=system.gateways,
        needed=needed,
        nodes=None if needed is None else math.ceil(needed / replicas_per_node),
        sizes=tuple(sizes),
    )


def _check_alone(demand: Demand, system: System, goal: Goal) -> None:
    prompt, answer = demand.draw(np.random.default_rng(0), 20_000)
    first = np.full(len(prompt), system.router_s)
    if system.prefill_tokens_per_s is not None:
        first = first + prompt / system.prefill_tokens_per_s
    for name, limit_s, times in (
        ("first token", goal.first_p95_s, first),
        ("whole answer", goal.total_p95_s, first + answer / float(system.totals[1])),
    ):
        fastest_s = float(np.quantile(times, 0.95))
        if limit_s is not None and fastest_s > limit_s:
            raise CommandError(
                f"no number of machines brings the {name} within {limit_s:g} s for 95 %: on an "
                f"idle one it takes {fastest_s:.2f} s",
                "faster machines, shorter prompts or answers, or another goal",
            )


def _simulate_size(
    demand: Demand, system: System, goal: Goal, *, nodes: int, load: float, effort: Effort
) -> Size:
    found: dict[str, list[dict[str, float]]] = {"slot": [], "first": [], "total": []}
    busy: list[float] = []
    # The same seeds for every size: sizes differ by their size, not by their luck.
    for seed in np.random.SeedSequence(effort.seed).spawn(effort.runs):
        rng = np.random.default_rng(seed)
        traffic = demand.traffic(effort.requests, rng=rng)
        times = simulate(system, traffic, rng=rng)
        skip = int(_WARM_UP_RATE * effort.requests)
        for name, values in found.items():
            kept = getattr(times, name)[skip:]
            values.append({key: float(np.quantile(kept, q)) for key, q in _QUANTILES.items()})
        busy.append(_slots_busy(system, traffic.arrivals, times.slot, times.total))
    wait, first, total = (
        {key: _estimate([run[key] for run in found[name]]) for key in _QUANTILES} for name in found
    )
    met = load < 1 and all(
        limit_s is None or quantiles["p95"].worst <= limit_s
        for limit_s, quantiles in ((goal.first_p95_s, first), (goal.total_p95_s, total))
    )
    return Size(
        replicas=system.replicas,
        nodes=nodes,
        load=load,
        slots_busy=_estimate(busy),
        wait_s=wait,
        first_s=first,
        total_s=total,
        meets_goal=met,
    )


def _slots_busy(system: System, arrivals: Floats, slot: Floats, total: Floats) -> float:
    """Return the mean share of slots taken while requests arrived, the warm-up left out."""
    begin, end = float(np.quantile(arrivals, _WARM_UP_RATE)), float(arrivals[-1])
    taken = np.minimum(arrivals + total, end) - np.maximum(arrivals + slot, begin)
    return float(np.maximum(taken, 0).sum()) / ((end - begin) * system.replicas * system.slots)


def _estimate(values: list[float]) -> Estimate:
    n = len(values)
    error = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Estimate(value=float(np.mean(values)), error=error)
