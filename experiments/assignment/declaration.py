"""How an experiment's split is declared, and who takes part.

The gateway's configuration embeds these classes, so a declaration that contradicts itself or others
is refused when it is deployed.
"""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from experiments.assignment.allocation import Allocation, Layout
from experiments.assignment.buckets import Hash
from experiments.assignment.rules import Holdout
from experiments.assignment.targeting import Attribute, AttributeType, Condition, Value

_MAX_UNIT_CHARS = 512
_LARGEST = 10**300
"""Whole numbers beyond it cannot be compared with what requests bring, which are floats."""

Percent = Annotated[
    Decimal,
    Field(ge=0, le=100, multiple_of=Decimal("0.01")),
    PlainSerializer(lambda percent: f"{percent.normalize():f}", return_type=str, when_used="json"),
]
"""Percent of units, in steps of 0.01. 5 and 5.0 are written alike: they are one configuration."""
Salt = Annotated[str, Field(min_length=1, max_length=128)]
DeclaredValue = StrictBool | StrictInt | StrictFloat | StrictStr


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class AttributeDeclaration(_Strict):
    """An attribute by which experiments may choose their units."""

    type: AttributeType
    header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    """Request header that has it. Exactly one of `header` and `metadata` is given."""
    metadata: str | None = Field(default=None, min_length=1, max_length=64)
    """Key of the body's `metadata` that has it."""
    values: tuple[str, ...] = ()
    """All values of a text, where they are known: conditions on others are then errors."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.header is None) == (self.metadata is None):
            raise ValueError("give exactly one of 'header' and 'metadata', where the value is")
        if self.values and self.type is not AttributeType.TEXT:
            raise ValueError(f"values are for texts, not for type {self.type.value!r}")
        return self

    def to_attribute(self, name: str) -> Attribute:
        """Return what reads it."""
        header = None if self.header is None else self.header.lower()
        return Attribute(name=name, type=self.type, header=header, metadata=self.metadata)


class ConditionDeclaration(_Strict):
    """What must hold for an attribute. Who lacks the attribute is not in the experiment."""

    attribute: str
    equals: DeclaredValue | None = None
    any_of: tuple[DeclaredValue, ...] | None = None
    none_of: tuple[DeclaredValue, ...] | None = None
    at_least: StrictInt | StrictFloat | None = None
    at_most: StrictInt | StrictFloat | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        asked = (self.equals, self.any_of, self.none_of, self.at_least, self.at_most)
        if all(part is None for part in asked):
            raise ValueError(
                f"nothing is asked of {self.attribute!r}; give equals, any_of, none_of, at_least "
                "or at_most"
            )
        for name in ("any_of", "none_of"):
            if getattr(self, name) == ():
                raise ValueError(f"{name} is empty; name at least one value")
        for name in ("equals", "at_least", "at_most"):
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > _LARGEST:
                raise ValueError(f"{name} is too large for a number; the largest is {_LARGEST:g}")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"at_least {self.at_least:g} is above at_most {self.at_most:g}, so nobody is both"
            )
        return self

    def to_condition(self, attribute: Attribute, known: tuple[str, ...] = ()) -> Condition:
        """Return what is asked of requests.

        Args:
            attribute: The declared attribute.
            known: All its values, where they are known.

        Raises:
            ValueError: If a value is not of the attribute's type, or not one of its values.
        """
        if attribute.type is not AttributeType.NUMBER and (
            self.at_least is not None or self.at_most is not None
        ):
            raise ValueError(
                f"at_least and at_most are for numbers; {attribute.name!r} is of type "
                f"{attribute.type.value!r}"
            )
        return Condition(
            attribute=attribute,
            equals=None if self.equals is None else _of_type(self.equals, attribute, known),
            any_of=_all_of_type(self.any_of, attribute, known),
            none_of=_all_of_type(self.none_of, attribute, known),
            at_least=self.at_least,
            at_most=self.at_most,
        )


class LayerDeclaration(_Strict):
    """Units shared out between experiments, each unit to one at most."""

    salt: Salt
    """Seed of the units' places. Another salt moves every unit, in all its experiments."""


class HoldoutDeclaration(_Strict):
    """Units that get the control variant in every experiment, and are in none."""

    percent: Annotated[Percent, Field(gt=0, lt=100)]
    salt: Salt

    def to_holdout(self) -> Holdout:
        """Return the rule."""
        return Holdout(salt=self.salt, size=int(self.percent * 100))


class SplitDeclaration(_Strict):
    """Who takes part in an experiment, and how they are split."""

    unit: Literal["session"] = "session"
    """Randomisation unit."""
    version: int = Field(default=1, ge=1)
    """Raise it for a new phase with new units; part of the exposure key."""
    salt: Salt
    """Seed of the split. Another salt reshuffles every unit."""
    hash: Hash = Hash.SHA256
    """`growthbook_v2` gives units what GrowthBook's SDKs give them for the seed `salt`, its
    variations being the control and then the treatments by name."""
    control: str
    """Variant of units that are not enrolled, and the reference of every comparison."""
    allocation: dict[str, Decimal]
    """Percent of units per variant, in steps of 0.01, adding up to 100."""
    coverage: Percent = Decimal(100)
    """Percent of units that take part; the others get the control variant. More only adds units,
    and moves none between variants."""
    layer: str | None = None
    """Layer that the experiment shares with others, so that no unit is in two of them."""
    slots: tuple[Percent, Percent] | None = None
    """The experiment's part of the layer, from and to percent."""
    targeting: tuple[ConditionDeclaration, ...] = ()
    """Which units it is about: those whose attributes fulfil all conditions."""
    overrides: dict[Annotated[str, Field(min_length=1, max_length=_MAX_UNIT_CHARS)], str] = Field(
        default={}, max_length=1000
    )
    """Variant by unit, for looking at a variant by hand; left out of every comparison. Units are
    written as in the log: the session id, behind `tenant/` where there are tenants."""

    @model_validator(mode="after")
    def _check_split(self) -> Self:
        self.to_allocation()
        if (self.layer is None) != (self.slots is None):
            raise ValueError("layer and slots belong together; give both or none")
        if self.slots is not None and self.slots[0] >= self.slots[1]:
            low, high = self.slots
            raise ValueError(f"slots go from {low:f} to {high:f}; the first must be below the last")
        for unit, variant in self.overrides.items():
            if variant not in self.allocation:
                raise ValueError(
                    f"overrides: unit {unit!r} is to get {variant!r}, which is no variant of the "
                    f"experiment; its variants: {sorted(self.allocation)}"
                )
        return self

    def to_allocation(self) -> Allocation:
        """Return the validated split."""
        return Allocation.from_percent(
            self.allocation, control=self.control, layout=Layout.of(self.hash)
        )


def _all_of_type(
    values: tuple[DeclaredValue, ...] | None, attribute: Attribute, known: tuple[str, ...]
) -> frozenset[Value] | None:
    if values is None:
        return None
    return frozenset(_of_type(value, attribute, known) for value in values)


def _of_type(value: DeclaredValue, attribute: Attribute, known: tuple[str, ...]) -> Value:
    match attribute.type:
        case AttributeType.TEXT:
            fits, example = isinstance(value, str), "put it in quotes"
        case AttributeType.NUMBER:
            fits, example = not isinstance(value, bool | str), "write a number such as 3"
        case AttributeType.BOOLEAN:
            fits, example = isinstance(value, bool), "write true or false"
    if not fits:
        raise ValueError(
            f"{value!r} is no value of {attribute.name!r}, which is of type "
            f"{attribute.type.value!r}; {example}"
        )
    if known and value not in known:
        raise ValueError(
            f"{value!r} is no value of {attribute.name!r}; its values: {', '.join(known)}"
        )
    return value
