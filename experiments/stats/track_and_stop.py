"""Track-and-stop: sample arms in the proportions that identify the best one soonest, then stop.

For choosing among several variants when the aim is to know the winner, not to earn meanwhile.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from experiments.stats.errors import InvalidStatistic
from experiments.stats.optimal_shares import Rival, optimal_shares

_GAP_SQUARED_FLOOR = 1e-6
"""Smallest squared gap, so that a tie does not ask for infinite sampling."""

_VARIANCE_FLOOR = 1e-12


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
    ridge: float = 0.0
    """Pull towards equal shares while units are few: ridge / sqrt(N) ||w - 1/K||^2 is added to what
    is minimised. 0, the exact optimum, by default; TensorZero uses 0.01."""


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
    epsilon (see `optimal_shares`). Stop when
    min_i g_i^2 / (2 (v_L / n_L + v_i / n_i)) > ln((K - 1) (1 + ln N) / delta).

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
        name: Rival(_gap_squared(best, arms[name], settings.epsilon), _spread(arms[name]))
        for name in names
        if name != leader
    }
    statistic = min(
        rival.gap_squared / (2.0 * (_spread(best) / best.n + rival.variance / arms[name].n))
        for name, rival in rivals.items()
    )
    shares = optimal_shares(
        leader,
        _spread(best),
        rivals,
        floor=settings.min_share,
        ridge=settings.ridge / math.sqrt(total),
    )
    return Plan(leader, shares, statistic > threshold, statistic, threshold)


def _gap_squared(best: ArmState, other: ArmState, epsilon: float) -> float:
    return max(_GAP_SQUARED_FLOOR, (best.mean - other.mean + epsilon) ** 2)


def _spread(arm: ArmState) -> float:
    return max(_VARIANCE_FLOOR, arm.variance)
