"""How an experiment's split follows its results, as declared.

The gateway embeds this class and must stay light: nothing here imports numpy.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from experiments.assignment.declaration import Percent


class Method(StrEnum):
    """How shares follow from results."""

    THOMPSON = "thompson"
    """Share = probability to be best: earns while it learns."""
    TOP_TWO = "top_two"
    """Half for the probability to be best, half for being second: finds the best of three or more
    sooner. Of two, one is first and the other second, so their split would never move."""
    TRACK_AND_STOP = "track_and_stop"
    """The shares that tell the best one from the others with the fewest units."""


class AdaptiveDeclaration(BaseModel):
    """How `carril exp adapt run` moves the split. Units keep their first variant for good."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    method: Method = Method.THOMPSON
    metric: str | None = None
    """The primary metric that the shares follow; needed where there are several."""
    min_share: Annotated[Percent, Field(ge=1)] = Decimal(10)
    """Percent that every variant keeps, so that all are measured in every period."""
    max_step: Annotated[Percent, Field(ge=1)] = Decimal(20)
    """Largest change of a variant's percent at a time: a mistaken lead costs little."""
    min_units_per_arm: Annotated[int, Field(ge=100)] = 100
    """Equal shares until every variant has as many sessions with the metric."""
    min_new_units: Annotated[int, Field(ge=20)] = 200
    """New sessions before the split moves again: periods must be worth comparing."""
    every_s: Annotated[FiniteFloat, Field(gt=0)] = 3600
    """Least seconds between two moves."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draws; with the number of the decision it makes each one repeatable."""
    best_probability: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    """Recommend a variant that is the best one with this probability."""
    max_expected_loss: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Recommend a variant whose choice costs at most this, in the metric's unit, on average."""

    def check(self, *, variants: int) -> Self:
        """Refuse what leaves nothing to move.

        Raises:
            ValueError: Naming what is allowed.
        """
        if self.min_share * variants >= 100:
            raise ValueError(
                f"adaptive.min_share is {self.min_share.normalize():f} % for each of {variants} "
                f"variants, which leaves nothing to move; allowed: below {100 / variants:g} %"
            )
        if self.method is Method.TOP_TWO and variants == 2:
            raise ValueError(
                "adaptive.method top_two is for three variants or more: of two, it always gives "
                "each a half; use thompson or track_and_stop"
            )
        return self

    @model_validator(mode="after")
    def _step_in_range(self) -> Self:
        if self.max_step > 50:
            raise ValueError(
                f"max_step is {self.max_step.normalize():f} %; allowed: up to 50, as one period "
                "must not turn the split around"
            )
        return self
