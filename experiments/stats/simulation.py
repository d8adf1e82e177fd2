"""Simulated experiments: what a method's promises are worth on traffic like ours.

Sessions of 1-11 correlated requests are assigned by the rules that serve traffic, looked at every
so many sessions, and judged by the default method and by the habits it replaces. With no effect the
shares of "significant" runs are false-positive rates; with one they are power.
"""

import math
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.assignment import N_BUCKETS, Allocation, Hash, Layout
from experiments.assignment.rules import Holdout, Reason, Rules, place
from experiments.stats.comparison import check_alpha
from experiments.stats.distributions import norm_isf
from experiments.stats.power import Design, Monitoring, sample_size
from experiments.stats.sequential import MIN_UNITS_PER_ARM, critical_value

_CHUNK = 200
"""Runs simulated at once; bounds memory to about 100 MB at 4,000 sessions."""

ALWAYS_VALID = "always_valid_peeking"
FIXED = "fixed_horizon_once"
FIXED_PEEKING = "fixed_horizon_peeking"
PER_REQUEST = "per_request_once"
PER_REQUEST_PEEKING = "per_request_peeking"

METHODS = {
    ALWAYS_VALID: "the default: confidence sequence over sessions, every look",
    FIXED: "z-test over sessions, once, at the end",
    FIXED_PEEKING: "OKLA's habit: |z| > critical value, from 50 per arm on, every look",
    PER_REQUEST: "OKLA's habit: requests taken as independent, once, at the end",
    PER_REQUEST_PEEKING: "both habits: requests as independent, every look",
}
"""What each method does, in words."""

_HABIT_UNITS_PER_ARM = 50
"""Where the habits begin to look: the least sample per variant of the OKLA assistant's rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationPlan:
    """What is simulated."""

    runs: int = 1000
    """Simulated experiments."""
    sessions: int = 4000
    """Sessions of both arms at the horizon; 2,000 per arm as in the reference simulations."""
    look_every: int = 50
    """Sessions between looks."""
    rate: float = 0.7
    """Success rate of a request in control, in (0, 1)."""
    effect: float = 0.0
    """Added to the rate in treatment; 0 is an A/A test."""
    icc: float = 0.3
    """Intra-class correlation of the requests of a session, in [0, 1)."""
    max_requests: int = 11
    """Requests per session are uniform on 1..max_requests."""
    treatment_percent: float = 50.0
    coverage_percent: float = 100.0
    """Percent of units that take part; `sessions` are those that do."""
    holdout_percent: float = 0.0
    """Percent of units that are in no experiment."""
    hash: Hash = Hash.SHA256
    alpha: float = 0.05
    seed: int = 42

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if min(self.runs, self.sessions, self.look_every, self.max_requests) < 1:
            raise ValueError("runs, sessions, look_every and max_requests must be 1 or more")
        if self.look_every > self.sessions:
            raise ValueError(
                f"look_every is {self.look_every}; allowed: up to sessions = {self.sessions}"
            )
        if not 0.0 <= self.icc < 1.0:
            raise ValueError(f"icc is {self.icc!r}; allowed: 0 up to below 1")
        _check_rates(self.rate, self.effect)
        if not 0.0 < self.treatment_percent < 100.0:
            raise ValueError(
                f"treatment_percent is {self.treatment_percent!r}; allowed: between 0 and 100"
            )
        if not 1.0 <= self.coverage_percent <= 100.0:
            raise ValueError(f"coverage is {self.coverage_percent!r}; allowed: 1 to 100 percent")
        if not 0.0 <= self.holdout_percent <= 99.0:
            raise ValueError(f"holdout is {self.holdout_percent!r}; allowed: 0 to 99 percent")


def _check_rates(rate: float, effect: float) -> None:
    for name, value in (("rate", rate), ("rate + effect", rate + effect)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} is {value!r}; allowed: above 0 and below 1")


class MethodResult(NamedTuple):
    """How one method did."""

    significant: float
    """Share of runs in which an effect was claimed."""
    standard_error: float
    """Monte-Carlo standard error of that share."""
    sessions_to_stop: float
    """Mean sessions at which a run stopped, the horizon if it claimed nothing."""


def planned_sessions(
    *,
    rate: float,
    effect: float,
    icc: float,
    max_requests: int,
    treatment_percent: float,
    alpha: float,
    power: float,
) -> int:
    """Return the sessions of both arms that the planner asks for, looked at as often as one likes.

    The rate is a ratio of sums over sessions; with m requests uniform on 1..M its delta variance
    per session is p (1 - p) E[m (1 + (m - 1) ICC)] / E[m]^2.

    Args:
        rate: Success rate in control.
        effect: Absolute effect to find, not 0.
        icc: Intra-class correlation of a session's requests.
        max_requests: M.
        treatment_percent: Percent of sessions treated.
        alpha: Error rate.
        power: Probability to find the effect.

    Raises:
        ValueError: If a value is outside its range.
    """
    _check_rates(rate, effect)
    mean, square = (max_requests + 1) / 2.0, (max_requests + 1) * (2 * max_requests + 1) / 6.0
    clustering = ((1.0 - icc) * mean + icc * square) / mean**2
    share = treatment_percent / 100.0
    design = Design(
        alpha=alpha,
        power=power,
        share_control=1.0 - share,
        share_treatment=share,
        monitoring=Monitoring.SEQUENTIAL,
    )
    control, treatment = (p * (1.0 - p) * clustering for p in (rate, rate + effect))
    return sample_size(effect, control, treatment, design).total


def simulate(plan: SimulationPlan) -> dict[str, MethodResult]:
    """Run the simulation.

    Methods: the default confidence sequence with session-level delta variance at every look after
    its burn-in; the same variance with the fixed-horizon critical value, once and at every look;
    and requests taken as independent, once and at every look. Habits look from 50 sessions per arm
    on, as the rule did that they come from.

    Args:
        plan: What to simulate. The same plan gives the same numbers.

    Returns:
        Result per method name.

    Raises:
        ValueError: If the split leaves an arm without sessions.
    """
    rng = np.random.Generator(np.random.PCG64(plan.seed))
    claimed: dict[str, list[NDArray[np.bool_]]] = {}
    stopped: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, plan.runs, _CHUNK):
        size = min(_CHUNK, plan.runs - start)
        for name, (hit, at) in _chunk(plan, rng, start, size).items():
            claimed.setdefault(name, []).append(hit)
            stopped.setdefault(name, []).append(at)
    result = {}
    for name, parts in claimed.items():
        share = float(np.concatenate(parts).mean())
        error = math.sqrt(share * (1.0 - share) / plan.runs)
        result[name] = MethodResult(share, error, float(np.concatenate(stopped[name]).mean()))
    return result


def _chunk(
    plan: SimulationPlan, rng: np.random.Generator, start: int, size: int
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    treated = _assignment(plan, start)
    requests, successes = _traffic(plan, rng, treated, size)
    ends = np.arange(plan.look_every, plan.sessions + 1, plan.look_every)
    if ends[-1] != plan.sessions:
        ends = np.append(ends, plan.sessions)
    arms = [_sums(successes, requests, treated == flag, ends) for flag in (False, True)]
    n_a, n_b = (np.cumsum(treated == flag)[ends - 1] for flag in (False, True))
    smaller = np.minimum(n_a, n_b)
    if smaller[-1] < 2:
        raise ValueError(
            f"{plan.treatment_percent:g} % of {plan.sessions} sessions leaves an arm with "
            f"{smaller[-1]}; at least 2 are needed: raise sessions"
        )
    looked = smaller >= min(_HABIT_UNITS_PER_ARM, max(2, smaller[-1] // 2))
    # Horizons below four burn-ins are looked at from their middle on: small plans are answered too.
    ready = (smaller >= min(MIN_UNITS_PER_ARM, max(2, smaller[-1] // 2)))[looked]
    ends, n_a, n_b = ends[looked], n_a[looked], n_b[looked]
    (rate_a, var_a, naive_a), (rate_b, var_b, naive_b) = (
        _moments({key: value[:, looked] for key, value in arm.items()}, n)
        for arm, n in zip(arms, (n_a, n_b), strict=True)
    )
    difference = rate_b - rate_a
    z = np.abs(difference) / np.sqrt(var_a + var_b)  # (runs, looks)
    naive = np.abs(difference) / np.sqrt(naive_a + naive_b)
    fixed = norm_isf(plan.alpha / 2.0)
    boundary = np.array(
        [critical_value(float(n), alpha=plan.alpha, n_star=float(plan.sessions)) for n in ends]
    )
    return {
        ALWAYS_VALID: _first((z > boundary) & ready, ends),
        FIXED: _first(z[:, -1:] > fixed, ends[-1:]),
        FIXED_PEEKING: _first(z > fixed, ends),
        PER_REQUEST: _first(naive[:, -1:] > fixed, ends[-1:]),
        PER_REQUEST_PEEKING: _first(naive > fixed, ends),
    }


def _assignment(plan: SimulationPlan, start: int) -> NDArray[np.bool_]:
    """Return who is treated of the sessions of a chunk that take part, shape (sessions,).

    Runs of a chunk share the assignment; given it, their outcomes are independent.
    """
    rules = _rules(plan, salt=f"simulation-{plan.seed}-{start}")
    placements = (place(f"session-{number}", rules) for number in count())
    enrolled = (found for found in placements if found.reason is Reason.ASSIGNED)
    return np.array([found.variant == "treatment" for found in islice(enrolled, plan.sessions)])


def _rules(plan: SimulationPlan, *, salt: str) -> Rules:
    treatment = round(plan.treatment_percent, 2)
    percent = {"control": round(100.0 - treatment, 2), "treatment": treatment}
    allocation = Allocation.from_percent(percent, control="control", layout=Layout.of(plan.hash))
    held_out = round(plan.holdout_percent / 100.0 * N_BUCKETS)
    return Rules(
        experiment="simulation",
        salt=salt,
        allocation=allocation,
        hash=plan.hash,
        coverage=round(plan.coverage_percent / 100.0 * N_BUCKETS),
        holdout=Holdout(salt=salt, size=held_out) if held_out else None,
    )


def _traffic(
    plan: SimulationPlan, rng: np.random.Generator, treated: NDArray[np.bool_], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw requests and successes per session, each of shape (size, sessions).

    A beta-binomial with a + b = 1 / icc - 1 has that intra-class correlation.
    """
    shape = (size, plan.sessions)
    requests = rng.integers(1, plan.max_requests, size=shape, endpoint=True)
    rate = np.broadcast_to(np.where(treated, plan.rate + plan.effect, plan.rate), shape)
    if plan.icc > 0:
        mass = 1.0 / plan.icc - 1.0
        rate = rng.beta(rate * mass, (1.0 - rate) * mass)
    successes = rng.binomial(requests, rate)
    return requests.astype(np.float64), successes.astype(np.float64)


def _sums(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    mask: NDArray[np.bool_],
    ends: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Sum the sufficient statistics of one arm up to each look, each of shape (runs, looks)."""
    products = {"x": x, "y": y, "xx": x * x, "xy": x * y, "yy": y * y}
    return {key: np.cumsum(value * mask, axis=1)[:, ends - 1] for key, value in products.items()}


def _moments(
    sums: dict[str, NDArray[np.float64]], n: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return rate, delta-method variance and per-request variance of the rate, (runs, looks).

    The delta variance is that of `ratio.RatioStats`, in arrays.
    """
    rate = sums["x"] / sums["y"]
    v_x = sums["xx"] - sums["x"] ** 2 / n
    v_y = sums["yy"] - sums["y"] ** 2 / n
    c_xy = sums["xy"] - sums["x"] * sums["y"] / n
    spread = np.maximum(v_x - 2.0 * rate * c_xy + rate**2 * v_y, 1e-300)
    delta = spread / (n - 1) * n / sums["y"] ** 2
    naive = np.maximum(rate * (1.0 - rate), 1e-300) / sums["y"]
    return rate, delta, naive


def _first(
    crossed: NDArray[np.bool_], ends: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    hit = np.asarray(crossed.any(axis=1))
    at = np.where(hit, ends[np.argmax(crossed, axis=1)], ends[-1])
    return hit, at.astype(np.float64)
