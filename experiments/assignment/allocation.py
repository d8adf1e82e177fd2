"""How the buckets of an experiment are shared out between its variants.

A unit's variant is a pure function of (salt, unit, allocation): the same on every replica, after
every restart, and reproducible offline from the log. Treatments take buckets from the two ends,
control keeps the middle:

    bucket 0                                                        9999
    [ first treatment ->        control             <- second treatment ]

so a ramp that grows treatments at the expense of control moves units from control to a treatment
only, never back and never across. Further treatments follow the first one from the left; resizing
an earlier one of those shifts them, which `moved_units` shows before it happens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from experiments.assignment.buckets import N_BUCKETS, Hash, variant_bucket


class Layout(StrEnum):
    """Where variants have their buckets."""

    ENDS = "ends"
    """Treatments from both ends, control in the middle."""
    CUMULATIVE = "cumulative"
    """One after the other from 0, control first, then treatments by name: GrowthBook's, where the
    variations are listed in that order. With several treatments a ramp moves units between them."""

    @classmethod
    def of(cls, hash: Hash) -> "Layout":  # noqa: A002 (its name in the configuration)
        """Return the layout that belongs to a hash."""
        return cls.CUMULATIVE if hash is Hash.GROWTHBOOK_V2 else cls.ENDS


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
        cls,
        percent: Mapping[str, Decimal | float | int],
        *,
        control: str,
        layout: Layout = Layout.ENDS,
    ) -> "Allocation":
        """Lay out a split.

        Args:
            percent: Percent of units per variant (0..100, steps of 0.01), adding up to 100.
                Treatments are laid out by name: the order in a file must not decide, since tools
                that compare configurations do not see it.
            control: Name of the control variant, one of the keys.
            layout: Where variants have their buckets.

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
        if layout is Layout.CUMULATIVE:
            ranges = _in_a_row(sizes, [control, *treatments])
        else:
            ranges = _from_the_ends(sizes, control, treatments)
        return cls(tuple(sorted(r for r in ranges if r.end > r.start)), control)

    def range_at(self, bucket: int) -> Range:
        """Return the range that has a bucket in 0..9999."""
        for found in self.ranges:
            if found.start <= bucket < found.end:
                return found
        raise ValueError(f"bucket {bucket!r} is outside 0..{N_BUCKETS - 1}")

    def variant_at(self, bucket: int) -> Assignment:
        """Return the variant that owns a bucket in 0..9999."""
        start, end, variant = self.range_at(bucket)
        return Assignment(variant, (end - start) / N_BUCKETS, bucket)


def assign(
    unit: str,
    allocation: Allocation,
    *,
    salt: str,
    hash: Hash = Hash.SHA256,  # noqa: A002 (its name in the configuration)
) -> Assignment:
    """Return the variant of a unit.

    Args:
        unit: Randomisation unit. Not empty.
        allocation: The split.
        salt: Seed of the split.
        hash: How units are spread over the buckets.
    """
    return allocation.variant_at(variant_bucket(unit, salt=salt, hash=hash))


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


def _from_the_ends(sizes: Mapping[str, int], control: str, treatments: list[str]) -> list[Range]:
    left, right = 0, N_BUCKETS
    ranges = []
    for position, name in enumerate(treatments):
        if position == 1:
            ranges.append(Range(right - sizes[name], right, name))
            right -= sizes[name]
        else:
            ranges.append(Range(left, left + sizes[name], name))
            left += sizes[name]
    return [*ranges, Range(left, right, control)]


def _in_a_row(sizes: Mapping[str, int], names: list[str]) -> list[Range]:
    ranges = []
    start = 0
    for name in names:
        ranges.append(Range(start, start + sizes[name], name))
        start += sizes[name]
    return ranges


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
