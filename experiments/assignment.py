"""Deterministic assignment of units to variants.

A unit's variant is a pure function of (salt, unit, allocation): the same on every replica, after
every restart, and reproducible offline from the log. Units fall into 10,000 buckets by SHA-256.
Treatments take buckets from the two ends, control keeps the middle:

    bucket 0                                                        9999
    [ first treatment ->        control             <- second treatment ]

so a ramp that grows treatments at the expense of control moves units from control to a treatment
only, never back and never across. Further treatments follow the first one from the left; resizing
an earlier one of those shifts them, which `moved_units` shows before it happens.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

N_BUCKETS = 10_000
"""Buckets per experiment; one bucket is 0.01 percentage points of traffic."""


class Range(NamedTuple):
    """Half-open range of buckets that belongs to a variant."""

    start: int
    end: int
    variant: str


class Assignment(NamedTuple):
    """The variant of a unit, and how likely it was."""

    variant: str
    probability: float
    """Share of units that get this variant, in (0, 1]; needed to re-weight logs later."""
    bucket: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """A split of the buckets between variants."""

    ranges: tuple[Range, ...]
    control: str

    @classmethod
    def from_percent(
        cls, percent: Mapping[str, Decimal | float | int], *, control: str
    ) -> "Allocation":
        """Lay out a split.

        Args:
            percent: Percent of units per variant (0..100, steps of 0.01), adding up to 100.
                Treatments are laid out by name: the order in a file must not decide, since tools
                that compare configurations do not see it.
            control: Name of the control variant, one of the keys.

        Raises:
            ValueError: If the weights are negative, too fine, do not add up, or control is absent.
        """
        if control not in percent:
            raise ValueError(f"control {control!r} is not in the allocation {sorted(percent)}")
        sizes = {name: _to_buckets(name, weight) for name, weight in percent.items()}
        if sum(sizes.values()) != N_BUCKETS:
            total = Decimal(sum(sizes.values())) / 100
            raise ValueError(f"weights add up to {total.normalize():f} %, not to 100 %")
        treatments = sorted(name for name in sizes if name != control)
        left, right = 0, N_BUCKETS
        ranges = []
        for position, name in enumerate(treatments):
            if position == 1:
                ranges.append(Range(right - sizes[name], right, name))
                right -= sizes[name]
            else:
                ranges.append(Range(left, left + sizes[name], name))
                left += sizes[name]
        ranges.append(Range(left, right, control))
        return cls(tuple(sorted(r for r in ranges if r.end > r.start)), control)

    def variant_at(self, bucket: int) -> Assignment:
        """Return the variant that owns a bucket in 0..9999."""
        for start, end, variant in self.ranges:
            if start <= bucket < end:
                return Assignment(variant, (end - start) / N_BUCKETS, bucket)
        raise ValueError(f"bucket {bucket!r} is outside 0..{N_BUCKETS - 1}")


def bucket_of(unit: str, *, salt: str, domain: str = "variant") -> int:
    """Return the stable bucket of a unit, in 0..9999.

    SHA-256 rather than `hash()`, which is seeded per process and would break stickiness between
    replicas. Domains keep decisions about the same unit independent of one another; the parts are
    length-prefixed, so no two different triples hash the same text.

    Args:
        unit: Randomisation unit, for us the session id. Not empty.
        salt: Seed of the split. A new salt reshuffles every unit.
        domain: What is decided: `enrolment`, `variant`, ...

    Raises:
        ValueError: If `unit` is empty.
    """
    if not unit:
        raise ValueError("unit is empty: a request without a session cannot be sticky")
    parts = (part.encode("utf-8", "surrogatepass") for part in (domain, salt, unit))
    digest = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()
    return int.from_bytes(digest[:8], "big") % N_BUCKETS


def assign(unit: str, allocation: Allocation, *, salt: str) -> Assignment:
    """Return the variant of a unit.

    Args:
        unit: Randomisation unit. Not empty.
        allocation: The split.
        salt: Seed of the split.
    """
    return allocation.variant_at(bucket_of(unit, salt=salt))


def moved_units(before: Allocation, after: Allocation) -> dict[tuple[str, str], float]:
    """Return which share of all units changes variant between two splits with one salt.

    Returns:
        Share of units (0..1) by (old variant, new variant), without those that stay.
    """
    moved: dict[tuple[str, str], int] = {}
    for bucket in range(N_BUCKETS):
        pair = (before.variant_at(bucket).variant, after.variant_at(bucket).variant)
        if pair[0] != pair[1]:
            moved[pair] = moved.get(pair, 0) + 1
    return {pair: count / N_BUCKETS for pair, count in sorted(moved.items())}


def _to_buckets(name: str, weight: Decimal | float | int) -> int:
    try:
        buckets = Decimal(str(weight)) * 100
    except ArithmeticError as error:
        raise ValueError(f"weight of {name!r} is {weight!r}, not a number") from error
    if not buckets.is_finite() or buckets < 0 or buckets > N_BUCKETS:
        raise ValueError(f"weight of {name!r} is {weight!r}; allowed: 0 to 100 percent")
    if buckets != buckets.to_integral_value():
        raise ValueError(f"weight of {name!r} is {weight!r}; the smallest step is 0.01 percent")
    return int(buckets)
