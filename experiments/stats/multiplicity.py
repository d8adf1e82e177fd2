"""Corrections for many metrics and arms.

Primary and secondary metrics share one family under Holm; exploratory ones get Benjamini-Hochberg.
Guardrails stay outside: every one of them must pass, so their errors do not add up in the
direction that matters (intersection-union test).
"""

from collections.abc import Sequence
from enum import StrEnum

from experiments.stats.errors import InvalidStatistic


class Correction(StrEnum):
    """How p-values of a family are adjusted."""

    HOLM = "holm"
    """Family-wise error rate; valid under any dependence."""
    BENJAMINI_HOCHBERG = "benjamini_hochberg"
    """False-discovery rate; valid under independence and positive dependence."""


def adjust(p_values: Sequence[float], correction: Correction) -> tuple[float, ...]:
    """Return adjusted p-values in the order given; reject where they are <= alpha."""
    match correction:
        case Correction.HOLM:
            return holm(p_values)
        case Correction.BENJAMINI_HOCHBERG:
            return benjamini_hochberg(p_values)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's step-down adjusted p-values.

    p_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)). Equal to statsmodels
    `multipletests(method="holm")`.

    References:
        Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian
        Journal of Statistics 6, 65-70.
    """
    order = _ascending(p_values)
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = running
    return tuple(adjusted)


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Benjamini and Hochberg's step-up adjusted p-values.

    p_(i) = min_{j >= i} min(1, m p_(j) / j). Equal to `scipy.stats.false_discovery_control`.

    References:
        Benjamini, Hochberg (1995), "Controlling the false discovery rate", JRSS B 57, 289-300.
    """
    order = _ascending(p_values)
    adjusted = [0.0] * len(p_values)
    running = 1.0
    for rank in range(len(order), 0, -1):
        index = order[rank - 1]
        running = min(running, p_values[index] * len(order) / rank)
        adjusted[index] = running
    return tuple(adjusted)


def holm_alphas(p_values: Sequence[float], alpha: float) -> tuple[float, ...]:
    """Return the level at which Holm tests each p-value: alpha / (m - rank + 1), ties by order.

    For intervals that agree with Holm's decisions on the metrics up to the first that fails.
    """
    order = _ascending(p_values)
    levels = [0.0] * len(p_values)
    for rank, index in enumerate(order):
        levels[index] = alpha / (len(order) - rank)
    return tuple(levels)


def _ascending(p_values: Sequence[float]) -> list[int]:
    for p in p_values:
        if not 0.0 <= p <= 1.0:
            raise InvalidStatistic(f"p-value is {p!r}; allowed: 0 to 1")
    return sorted(range(len(p_values)), key=lambda index: p_values[index])
