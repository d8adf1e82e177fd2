"""From declarations to rules: everything that experiments can contradict one another in."""

from collections.abc import Iterable, Mapping
from itertools import combinations

from experiments.assignment.declaration import (
    AttributeDeclaration,
    ConditionDeclaration,
    HoldoutDeclaration,
    LayerDeclaration,
    SplitDeclaration,
)
from experiments.assignment.rules import Rules, Slots
from experiments.assignment.targeting import Condition


def rules_of(
    experiments: Mapping[str, SplitDeclaration],
    *,
    layers: Mapping[str, LayerDeclaration],
    attributes: Mapping[str, AttributeDeclaration],
    holdout: HoldoutDeclaration | None,
) -> dict[str, Rules]:
    """Return the rules of all experiments.

    Args:
        experiments: Declared experiments by name.
        layers: Declared layers by name.
        attributes: Declared attributes by name.
        holdout: Who is in no experiment.

    Raises:
        ValueError: If they contradict one another, naming the place and what is allowed.
    """
    _check_salts("experiments", experiments)
    _check_salts("layers", layers)
    rules = {}
    for name, declared in experiments.items():
        where = f"experiments.{name}"
        rules[name] = Rules(
            experiment=name,
            salt=declared.salt,
            allocation=declared.to_allocation(),
            hash=declared.hash,
            coverage=int(declared.coverage * 100),
            slots=_slots_of(declared, layers, where),
            targeting=tuple(
                _condition_of(condition, attributes, f"{where}.targeting.{position}")
                for position, condition in enumerate(declared.targeting)
            ),
            overrides=declared.overrides,
            holdout=None if holdout is None else holdout.to_holdout(),
        )
    for one, other in combinations(rules.values(), 2):
        _check_disjoint(one, other)
    return rules


def check_candidates(where: str, names: Iterable[str], rules: Mapping[str, Rules]) -> None:
    """Refuse experiments that cannot share a served model.

    Raises:
        ValueError: Naming the place and what is allowed.
    """
    chosen = [rules[name] for name in names]
    for one, other in combinations(chosen, 2):
        if one.experiment == other.experiment:
            raise ValueError(f"{where}: {one.experiment!r} is named twice")
        if one.slots is None or other.slots is None or one.slots.layer != other.slots.layer:
            raise ValueError(
                f"{where}: {one.experiment!r} and {other.experiment!r} would both choose the "
                "variant; give them a layer in common, with a part for each: layer and slots"
            )
        if one.control != other.control:
            raise ValueError(
                f"{where}: the controls of {one.experiment!r} ({one.control!r}) and "
                f"{other.experiment!r} ({other.control!r}) differ, and units that are in neither "
                "get the control; give them the same"
            )
        twice = sorted(one.overrides.keys() & other.overrides.keys())
        if twice:
            raise ValueError(
                f"{where}: {one.experiment!r} and {other.experiment!r} both override {twice[0]!r}; "
                "list a unit in one of them"
            )


def _check_salts(
    where: str, declared: Mapping[str, SplitDeclaration] | Mapping[str, LayerDeclaration]
) -> None:
    seen: dict[str, str] = {}
    for name, one in declared.items():
        if one.salt in seen:
            raise ValueError(
                f"{where}.{name}.salt: {one.salt!r} is also the salt of {seen[one.salt]!r}, so the "
                "same units would be together in both; give each its own salt"
            )
        seen[one.salt] = name


def _slots_of(
    declared: SplitDeclaration, layers: Mapping[str, LayerDeclaration], where: str
) -> Slots | None:
    if declared.layer is None or declared.slots is None:
        return None
    if declared.layer not in layers:
        raise ValueError(
            f"{where}.layer: unknown layer {declared.layer!r}; declared under layers: "
            f"{sorted(layers)}"
        )
    start, end = (int(percent * 100) for percent in declared.slots)
    return Slots(layer=declared.layer, salt=layers[declared.layer].salt, start=start, end=end)


def _check_disjoint(one: Rules, other: Rules) -> None:
    a, b = one.slots, other.slots
    if a is None or b is None or a.layer != b.layer:
        return
    low, high = max(a.start, b.start), min(a.end, b.end)
    if low < high:
        raise ValueError(
            f"experiments.{other.experiment}.slots: {low / 100:g} to {high / 100:g} % of layer "
            f"{a.layer!r} belong to {one.experiment!r} already; parts of a layer must not overlap"
        )


def _condition_of(
    declared: ConditionDeclaration, attributes: Mapping[str, AttributeDeclaration], where: str
) -> Condition:
    found = attributes.get(declared.attribute)
    if found is None:
        raise ValueError(
            f"{where}.attribute: unknown attribute {declared.attribute!r}; declared under "
            f"attributes: {sorted(attributes)}"
        )
    try:
        return declared.to_condition(found.to_attribute(declared.attribute), found.values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
