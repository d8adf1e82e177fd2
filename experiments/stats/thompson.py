"""Thompson and top-two Thompson allocation: move traffic to better arms while learning.

The weights are for new units only; a unit keeps its arm. Data collected under moving weights must
be analysed by period (post-stratification by allocation epoch), or a time trend biases it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from experiments.stats.bayes import Posterior
from experiments.stats.errors import InvalidStatistic


class ThompsonPolicy(StrEnum):
    """How shares follow from posterior draws."""

    THOMPSON = "thompson"
    """Share = probability to be best."""
    TOP_TWO = "top_two"
    """Share = (probability to be first + probability to be second) / 2: keeps measuring the
    runner-up, so the winner is identified faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThompsonRule:
    """Settings of the allocation."""

    policy: ThompsonPolicy = ThompsonPolicy.TOP_TWO
    min_share: float = 0.05
    """Floor f of every arm's share, in [0, 1/K]: share = f + (1 - K f) w. Keeps every arm
    measurable; our choice."""
    min_units_per_arm: int = 100
    """Equal shares until every arm has as many, as in GrowthBook's bandits."""
    n_draws: int = 10_000
    """Posterior draws; shares are good to about 0.005."""


def thompson_shares(
    posteriors: Mapping[str, Posterior],
    units: Mapping[str, int],
    *,
    seed: int,
    rule: ThompsonRule | None = None,
) -> dict[str, float]:
    """Return the share of new units for each arm.

    Deterministic: the same posteriors, units and seed give the same shares on every replica (PCG64
    streams; arms are drawn in the order of their names, whatever order they come in).

    Args:
        posteriors: Posterior of each arm's value; larger is better.
        units: Units so far per arm.
        seed: Seed of the draws, such as the allocation epoch.
        rule: Settings.

    Returns:
        Shares adding up to 1.

    Raises:
        InvalidStatistic: If arms differ, there is none, or the floor leaves nothing to move.

    References:
        Thompson (1933), Biometrika 25; Russo (2020), "Simple Bayesian algorithms for best-arm
        identification", Operations Research 68 (top-two, beta = 1/2).
    """
    settings = rule or ThompsonRule()
    names = sorted(posteriors)
    count = len(names)
    if not names or set(names) != set(units):
        raise InvalidStatistic(f"arms differ: posteriors {names}, units {sorted(units)}")
    if not 0.0 <= settings.min_share <= 1.0 / count:
        raise InvalidStatistic(f"min_share is {settings.min_share!r}; allowed: 0 to {1 / count!r}")
    if count == 1 or min(units.values()) < settings.min_units_per_arm:
        return dict.fromkeys(names, 1.0 / count)
    rng = np.random.Generator(np.random.PCG64(seed))
    draws = np.stack([posteriors[name].draw(rng, settings.n_draws) for name in names])
    order = np.argsort(-draws, axis=0, kind="stable")
    weights = np.bincount(order[0], minlength=count) / settings.n_draws
    if settings.policy is ThompsonPolicy.TOP_TWO:
        second = np.bincount(order[1], minlength=count) / settings.n_draws
        weights = 0.5 * (weights + second)
    floor = settings.min_share
    return {
        name: floor + (1.0 - count * floor) * float(weight)
        for name, weight in zip(names, weights, strict=True)
    }
