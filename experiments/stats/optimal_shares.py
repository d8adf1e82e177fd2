"""The sampling proportions that tell the best of several normal arms from the others soonest.

Solved by nested one-dimensional convex searches instead of a general optimiser: for a leader's
share and a level the other shares are explicit. The result does not depend on a solver's version
and there is no failure to fall back from.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

_STEPS = 64
"""Iterations of each one-dimensional search; golden section is then good to 4e-14."""

_SMALLEST = 1e-6
"""Floor of a share that keeps the levels finite, as in TensorZero."""


class Rival(NamedTuple):
    """An arm that is not the leader."""

    gap_squared: float
    """Squared distance of its mean from the leader's, > 0."""
    variance: float
    """Unit variance, > 0."""


def optimal_shares(
    leader: str,
    variance: float,
    rivals: Mapping[str, Rival],
    *,
    floor: float = 0.0,
    ridge: float = 0.0,
) -> dict[str, float]:
    """Return the shares w that minimise max_i 2 (v_L / w_L + v_i / w_i) / g_i^2 + r ||w - 1/K||^2.

    Args:
        leader: Name of the best arm.
        variance: Its unit variance, > 0.
        rivals: The other arms, at least one.
        floor: Smallest share of any arm, in [0, 1/K].
        ridge: Weight r >= 0 of the pull towards equal shares.

    Returns:
        Shares by name, sorted, adding up to 1.

    References:
        Garivier, Kaufmann (2016), "Optimal best arm identification with fixed confidence", COLT,
        section 2.2, with plug-in Gaussian variances.
    """
    least = max(floor, _SMALLEST)
    others = list(rivals.values())
    centre = 1.0 / (len(others) + 1)

    def cost(share: float) -> float:
        level, shares = _rest(share, variance, others, least, ridge)
        pull = (share - centre) ** 2 + math.fsum((w - centre) ** 2 for w in shares)
        return level + ridge * pull

    best = _minimise(cost, least, 1.0 - least * len(others))
    _, shares = _rest(best, variance, others, least, ridge)
    total = math.fsum([best, *shares])
    named = {leader: best, **dict(zip(rivals, shares, strict=True))}
    return {name: named[name] / total for name in sorted(named)}


def _rest(
    share: float, variance: float, rivals: list[Rival], floor: float, ridge: float
) -> tuple[float, list[float]]:
    """Return the level and the rivals' shares that are best for a leader's share."""
    left = 1.0 - share

    def needed(level: float) -> list[float]:
        rooms = [0.5 * level * rival.gap_squared - variance / share for rival in rivals]
        return [
            max(floor, rival.variance / room) if room > 0 else math.inf
            for rival, room in zip(rivals, rooms, strict=True)
        ]

    low = max(2.0 * variance / share / rival.gap_squared for rival in rivals)
    equal = left / len(rivals)
    high = max(
        2.0 * (variance / share + rival.variance / equal) / rival.gap_squared for rival in rivals
    )
    even = high * (1.0 + 1e-12)
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if math.fsum(needed(middle)) > left:
            low = middle
        else:
            high = middle
    level = min(high * (1.0 + 1e-15), even)
    if ridge > 0:
        centre = 1.0 / (len(rivals) + 1)

        def cost(candidate: float) -> float:
            shares = _fill(needed(candidate), left)
            return candidate + ridge * math.fsum((w - centre) ** 2 for w in shares)

        level = _minimise(cost, level, even)
    return level, _fill(needed(level), left)


def _fill(least: list[float], total: float) -> list[float]:
    """Raise the smallest entries to one common height so that all add up to `total`.

    Of all shares above `least` with that sum these are the ones nearest to equal.
    """
    ordered = sorted(least)
    height = 0.0
    for count in range(1, len(ordered) + 1):
        height = (total - math.fsum(ordered[count:])) / count
        if count == len(ordered) or height <= ordered[count]:
            break
    return [max(entry, height) for entry in least]


def _minimise(cost: Callable[[float], float], low: float, high: float) -> float:
    """Return the minimiser of a convex function by golden section."""
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = cost(a), cost(b)
    for _ in range(_STEPS):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - _GOLDEN * (high - low)
            at_a = cost(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + _GOLDEN * (high - low)
            at_b = cost(b)
    return 0.5 * (low + high)
