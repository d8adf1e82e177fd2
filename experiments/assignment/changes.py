"""Who gets another variant when the rules of an experiment change: told before it happens."""

from collections import defaultdict

from experiments.assignment.allocation import Allocation, moved_units
from experiments.assignment.buckets import N_BUCKETS
from experiments.assignment.rules import Holdout, Rules, Slots


def moves(before: Rules, after: Rules) -> dict[tuple[str, str], float]:
    """Return which share of all units changes variant between two versions of the rules.

    The rules hash in domains of their own, so shares multiply; with GrowthBook's hash, whose
    coverage is a part of each variant's buckets, the result is close where both change at once.
    Targeting is taken as fulfilled by everybody, and overrides are left aside.

    Args:
        before: The rules now, with the same salt and hash.
        after: The new rules.

    Returns:
        Share of units (0..1) by (old variant, new variant), without those that stay.
    """
    both = _in_both(before, after)
    leaving, joining = before.enrolled_share - both, after.enrolled_share - both
    found: dict[tuple[str, str], float] = defaultdict(float)
    for pair, share in moved_units(before.allocation, after.allocation).items():
        found[pair] += share * both
    for variant, share in _shares(before.allocation).items():
        found[variant, after.control] += share * leaving
    for variant, share in _shares(after.allocation).items():
        found[before.control, variant] += share * joining
    found[before.control, after.control] += 1.0 - both - leaving - joining
    return {
        (old, new): share
        for (old, new), share in sorted(found.items())
        if old != new and share > 1e-12
    }


def _in_both(before: Rules, after: Rules) -> float:
    coverage = min(before.coverage, after.coverage) / N_BUCKETS
    return (
        _free_in_both(before.holdout, after.holdout)
        * _slots_in_both(before.slots, after.slots)
        * coverage
    )


def _free_in_both(one: Holdout | None, other: Holdout | None) -> float:
    shares = [1.0 - h.size / N_BUCKETS for h in (one, other) if h is not None]
    if one is not None and other is not None and one.salt != other.salt:
        return shares[0] * shares[1]
    return min(shares, default=1.0)


def _slots_in_both(one: Slots | None, other: Slots | None) -> float:
    if one is None or other is None:
        return min(_size(one), _size(other))
    if one.salt != other.salt:
        return _size(one) * _size(other)
    return max(0, min(one.end, other.end) - max(one.start, other.start)) / N_BUCKETS


def _size(slots: Slots | None) -> float:
    return 1.0 if slots is None else (slots.end - slots.start) / N_BUCKETS


def _shares(allocation: Allocation) -> dict[str, float]:
    return {r.variant: (r.end - r.start) / N_BUCKETS for r in allocation.ranges}
