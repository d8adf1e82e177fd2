"""What a unit gets, and why: the rules of an experiment, in the order in which they apply.

    override > holdout > layer > targeting > coverage > variant

Between the first and the last, rules only keep units out; who is kept out gets the control variant
and is no part of the experiment. Holdout, layer, enrolment and variant each hash in a domain of
their own, so they are independent: a unit's place in a layer says nothing about its variant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from experiments.assignment.allocation import Allocation, Assignment
from experiments.assignment.buckets import N_BUCKETS, Hash, bucket_of, variant_bucket
from experiments.assignment.targeting import NOTHING_GIVEN, Condition, Given


class Reason(StrEnum):
    """Why a unit gets its variant."""

    ASSIGNED = "assigned"
    """By chance: it is in the experiment."""
    OVERRIDE = "override"
    """Somebody listed it, to see a variant."""
    HOLDOUT = "holdout"
    """It is kept out of all experiments."""
    LAYER = "layer"
    """Its place in the layer belongs to another experiment, or to none."""
    TARGETING = "targeting"
    """It is not whom the experiment is about."""
    COVERAGE = "coverage"
    """It is in the share of units that the experiment leaves alone."""
    NO_UNIT = "no_unit"
    """The request has no session, so it cannot be sticky."""


class Step(NamedTuple):
    """One rule, looked at."""

    rule: Reason
    passed: bool
    """Whether the unit goes on to the next rule."""
    detail: str


class Placement(NamedTuple):
    """What a unit gets."""

    reason: Reason
    variant: str
    experiment: str | None
    """None if the unit's place belongs to none of several experiments."""
    assignment: Assignment | None
    """Only where the reason is `ASSIGNED`."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """The part of a layer that belongs to an experiment."""

    layer: str
    salt: str
    """Of the layer; what its experiments share."""
    start: int
    end: int
    """Half-open range of buckets."""

    def bucket_of(self, unit: str) -> int:
        """Return a unit's place in the layer."""
        return bucket_of(unit, salt=self.salt, domain="layer")

    def has(self, unit: str) -> bool:
        """Return whether a unit's place is in this part."""
        return self.start <= self.bucket_of(unit) < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """Units that no experiment touches, to see what all of them together have brought."""

    salt: str
    size: int
    """Buckets, from 0: a growing holdout keeps whom it has."""

    def bucket_of(self, unit: str) -> int:
        """Return a unit's bucket."""
        return bucket_of(unit, salt=self.salt, domain="holdout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who is in an experiment, and which variant they get."""

    experiment: str
    salt: str
    allocation: Allocation
    hash: Hash = Hash.SHA256
    coverage: int = N_BUCKETS
    """Buckets of units that take part at all. More coverage only ever adds units."""
    slots: Slots | None = None
    targeting: tuple[Condition, ...] = ()
    """All must hold."""
    overrides: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Variant by unit, for tests by hand."""
    holdout: Holdout | None = None

    @property
    def control(self) -> str:
        """What units get that are not in the experiment."""
        return self.allocation.control

    @property
    def enrolled_share(self) -> float:
        """Share of units that take part, 0..1, targeting aside."""
        slots = 1.0 if self.slots is None else (self.slots.end - self.slots.start) / N_BUCKETS
        held_out = 0.0 if self.holdout is None else self.holdout.size / N_BUCKETS
        return (1.0 - held_out) * slots * self.coverage / N_BUCKETS


def choose(unit: str, candidates: Sequence[Rules], given: Given = NOTHING_GIVEN) -> Placement:
    """Return what a unit gets of experiments that share a layer, or of a single one.

    Args:
        unit: Randomisation unit. Not empty.
        candidates: At least one; several have disjoint slots of one layer and one control.
        given: What the request says about itself.
    """
    for rules in candidates:
        if unit in rules.overrides:
            return place(unit, rules, given)
    if len(candidates) == 1:
        return place(unit, candidates[0], given)
    for rules in candidates:
        if rules.slots is not None and rules.slots.has(unit):
            return place(unit, rules, given)
    return place(unit, candidates[0], given)._replace(experiment=None)


def place(unit: str, rules: Rules, given: Given = NOTHING_GIVEN) -> Placement:
    """Return what a unit gets of one experiment, and every rule that was looked at.

    Args:
        unit: Randomisation unit. Not empty.
        rules: Of the experiment.
        given: What the request says about itself.

    Raises:
        ValueError: If `unit` is empty.
    """
    steps: list[Step] = []
    for rule in (_override, _holdout, _layer, _targeting, _coverage):
        step = rule(unit, rules, given)
        if step is None:
            continue
        steps.append(step)
        if not step.passed:
            variant = rules.overrides.get(unit, rules.control)
            return Placement(step.rule, variant, rules.experiment, None, tuple(steps))
    bucket = variant_bucket(unit, salt=rules.salt, hash=rules.hash)
    start, end, variant = rules.allocation.range_at(bucket)
    steps.append(
        Step(Reason.ASSIGNED, True, f"bucket {bucket} is in {start}..{end - 1}, which is {variant}")
    )
    assignment = rules.allocation.variant_at(bucket)
    return Placement(Reason.ASSIGNED, variant, rules.experiment, assignment, tuple(steps))


def _override(unit: str, rules: Rules, _given: Given) -> Step | None:
    variant = rules.overrides.get(unit)
    if variant is None:
        return None
    return Step(Reason.OVERRIDE, False, f"overrides lists the unit for {variant}")


def _holdout(unit: str, rules: Rules, _given: Given) -> Step | None:
    holdout = rules.holdout
    if holdout is None:
        return None
    bucket = holdout.bucket_of(unit)
    free = bucket >= holdout.size
    place_of = "from there on units are free" if free else "below it units are held out"
    return Step(Reason.HOLDOUT, free, f"bucket {bucket}, limit {holdout.size}: {place_of}")


def _layer(unit: str, rules: Rules, _given: Given) -> Step | None:
    slots = rules.slots
    if slots is None:
        return None
    bucket = slots.bucket_of(unit)
    inside = slots.start <= bucket < slots.end
    where = f"{slots.start}..{slots.end - 1} of layer {slots.layer}"
    return Step(Reason.LAYER, inside, f"bucket {bucket} is {'' if inside else 'not '}in {where}")


def _targeting(_unit: str, rules: Rules, given: Given) -> Step | None:
    if not rules.targeting:
        return None
    for condition in rules.targeting:
        if not condition.holds_for(given):
            return Step(Reason.TARGETING, False, condition.why_not(given))
    names = ", ".join(condition.attribute.name for condition in rules.targeting)
    return Step(Reason.TARGETING, True, f"{names} as declared")


def _coverage(unit: str, rules: Rules, _given: Given) -> Step | None:
    """Look whether a unit takes part.

    GrowthBook's way is the first part of each variant's buckets, by the hash of the variant: so its
    units are enrolled as its SDKs enrol them. Ours is a hash of its own.
    """
    if rules.coverage == N_BUCKETS:
        return None
    if rules.hash is Hash.GROWTHBOOK_V2:
        bucket = variant_bucket(unit, salt=rules.salt, hash=rules.hash)
        start, end, variant = rules.allocation.range_at(bucket)
        # Whole numbers: (bucket - start) < (end - start) * coverage, without rounding.
        inside = (bucket - start) * N_BUCKETS < (end - start) * rules.coverage
        where = f"the first {rules.coverage / 100:g} % of {start}..{end - 1}, which is {variant}"
    else:
        bucket = bucket_of(unit, salt=rules.salt, domain="enrolment")
        inside = bucket < rules.coverage
        where = f"the first {rules.coverage} of {N_BUCKETS}"
    return Step(Reason.COVERAGE, inside, f"bucket {bucket} is {'' if inside else 'not '}in {where}")
