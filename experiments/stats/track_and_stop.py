"""Track-and-stop: sample arms in the proportions that identify the best one soonest, then stop.

For choosing among several variants when the aim is to know the winner, not to earn meanwhile.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from experiments.stats.errors import InvalidStatistic

_GAP_SQUARED_FLOOR = 1e-6
"""Smallest squared gap, so that a tie does not ask for infinite sampling."""

_VARIANCE_FLOOR = 1e-12

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

_STEPS = 64
"""Iterations of each one-dimensional search; golden section is then good to 4e-14."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackAndStopRule:
    """Settings."""

    epsilon: float = 0.0
    """An arm within this of the best is good enough, metric unit, >= 0."""
    delta: float = 0.05
    """Probability of naming a wrong winner, in (0, 1)."""
    min_units_per_arm: int = 100
    """Equal sampling until then. TensorZero uses 10, at which two arms of 10/10 stop at once."""
    min_share: float = 0.05
    """Floor of every arm's share, in [0, 1/K]."""


class ArmState(NamedTuple):
    """What is known of one arm."""

    n: int
    """Units."""
    mean: float
    """Sample mean; larger is better."""
    variance: float
    """Unit variance; for rates use `jeffreys_rate`, which is never 0."""


class Plan(NamedTuple):
    """What to do next."""

    leader: str
    shares: dict[str, float]
    """Shares of new units, adding up to 1."""
    stopped: bool
    """True if the leader may be declared."""
    statistic: float
    """Smallest generalised likelihood ratio of the leader against another arm."""
    threshold: float


def jeffreys_rate(successes: int, n: int) -> ArmState:
    """Return the state of a rate with Jeffreys' posterior mean and variance.

    Mean (S + 1/2) / (n + 1) and its p (1 - p): 10 of 10 is 0.95 with variance 0.04, not certainty.
    """
    mean = (successes + 0.5) / (n + 1.0)
    return ArmState(n, mean, mean * (1.0 - mean))


def plan(arms: Mapping[str, ArmState], rule: TrackAndStopRule | None = None) -> Plan:
    """Decide shares and whether to stop.

    Leader: largest mean (ties: smallest variance / n, then name). Shares minimise the largest
    2 (v_L / w_L + v_i / w_i) / g_i^2 over the simplex with w >= min_share, g_i = m_L - m_i +
    epsilon. Stop when min_i g_i^2 / (2 (v_L / n_L + v_i / n_i)) > ln((K - 1) (1 + ln N) / delta).

    The factor K - 1 is a union bound over the leader's rivals, so that delta holds for more than
    two arms too (engines without it err more often). Variances are plugged in, so the guarantee is
    approximate, near delta in simulation.

    Args:
        arms: State per arm, at least two.
        rule: Settings.

    Raises:
        InvalidStatistic: If there are fewer than two arms or the floor is too high.

    References:
        Garivier, Kaufmann (2016), "Optimal best arm identification with fixed confidence", COLT,
        lemma 3 (Gaussian arms, unequal variances) and section 3.2 (stopping).
    """
    settings = rule or TrackAndStopRule()
    names = sorted(arms)
    count = len(names)
    if count < 2:
        raise InvalidStatistic(f"{count} arm given; allowed: 2 or more")
    if not 0.0 <= settings.min_share <= 1.0 / count:
        raise InvalidStatistic(f"min_share is {settings.min_share!r}; allowed: 0 to {1 / count!r}")
    total = sum(arm.n for arm in arms.values())
    threshold = math.log((count - 1) * (1.0 + math.log(max(1, total))) / settings.delta)
    if min(arm.n for arm in arms.values()) < max(1, settings.min_units_per_arm):
        leader = max(names, key=lambda name: arms[name].mean)
        return Plan(leader, dict.fromkeys(names, 1.0 / count), False, 0.0, threshold)
    leader = min(names, key=lambda name: (-arms[name].mean, arms[name].variance / arms[name].n))
    best = arms[leader]
    rivals = {
        name: (_gap_squared(best, arms[name], settings.epsilon), _spread(arms[name]))
        for name in names
        if name != leader
    }
    statistic = min(
        gap / (2.0 * (_spread(best) / best.n + spread / arms[name].n))
        for name, (gap, spread) in rivals.items()
    )
    shares = _optimal_shares(leader, _spread(best), rivals, settings.min_share)
    return Plan(leader, shares, statistic > threshold, statistic, threshold)


def _gap_squared(best: ArmState, other: ArmState, epsilon: float) -> float:
    return max(_GAP_SQUARED_FLOOR, (best.mean - other.mean + epsilon) ** 2)


def _spread(arm: ArmState) -> float:
    return max(_VARIANCE_FLOOR, arm.variance)


def _optimal_shares(
    leader: str, spread: float, rivals: Mapping[str, tuple[float, float]], floor: float
) -> dict[str, float]:
    """Solve the max-min problem exactly by two nested one-dimensional searches.

    For a given leader's share the others' shares follow from the common level t, and the optimal t
    is convex in the leader's share, so golden section finds it. No general optimiser: the result
    does not depend on a solver's version.
    """
    floor = max(floor, 1e-6)
    low, high = floor, 1.0 - floor * len(rivals)
    inside = (high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
    values = [_level(share, spread, rivals, floor) for share in inside]
    a, b = inside
    for _ in range(_STEPS):
        if values[0] <= values[1]:
            high, b, values[1] = b, a, values[0]
            a = high - _GOLDEN * (high - low)
            values[0] = _level(a, spread, rivals, floor)
        else:
            low, a, values[0] = a, b, values[1]
            b = low + _GOLDEN * (high - low)
            values[1] = _level(b, spread, rivals, floor)
    share = 0.5 * (low + high)
    level = _level(share, spread, rivals, floor)
    shares = {leader: share, **_rival_shares(level, share, spread, rivals, floor)}
    total = math.fsum(shares.values())
    return {name: shares[name] / total for name in sorted(shares)}


def _level(
    share: float, spread: float, rivals: Mapping[str, tuple[float, float]], floor: float
) -> float:
    """Return the smallest t with 2 (v_L / w_L + v_i / w_i) / g_i^2 <= t for shares that fit."""
    left = 1.0 - share
    base = max(2.0 * spread / share / gap for gap, _ in rivals.values())
    low, high = base, base + 1.0
    while sum(_rival_shares(high, share, spread, rivals, floor).values()) > left:
        low, high = high, base + 2.0 * (high - base)
        if high > 1e300:
            return high
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if sum(_rival_shares(middle, share, spread, rivals, floor).values()) > left:
            low = middle
        else:
            high = middle
    return high


def _rival_shares(
    level: float,
    share: float,
    spread: float,
    rivals: Mapping[str, tuple[float, float]],
    floor: float,
) -> dict[str, float]:
    result = {}
    for name, (gap, own) in rivals.items():
        room = 0.5 * level * gap - spread / share
        result[name] = max(floor, own / room) if room > 0 else math.inf
    return result
