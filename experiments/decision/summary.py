"""The summary file of `carril exp decide`: an experiment with its metrics as aggregates."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from experiments.decision.evidence import MetricRole, Population, ScoreItem
from experiments.decision.policy import Policy
from experiments.stats.arm_schema import Count, Strict
from experiments.stats.comparison import Alternative
from experiments.stats.noninferiority import Direction
from experiments.stats.summary import (
    MeanMetric,
    ProportionMetric,
    QuantileMetric,
    RatioMetric,
    dashed,
)

Positive = Annotated[FiniteFloat, Field(gt=0)]


class Arms(Strict):
    """A count per arm."""

    control: Count
    treatment: Count


class Shares(Strict):
    """Declared weight per arm; only the proportion matters."""

    control: Positive
    treatment: Positive


class PeriodSpec(Strict):
    """A period of a split that moves: its own units and shares."""

    exposures: Arms
    allocation: Shares


class HealthSpec(Strict):
    """What is known of the quality of the data."""

    multi_exposed_units: Count = 0
    missing_outcomes: Arms | None = None
    conflicts: tuple[str, ...] = ()


class PlanSpec(Strict):
    """What was decided before the start."""

    units: Annotated[int, Field(gt=0)] | None = None
    """Units of both arms, from `carril exp power`; also tunes the confidence sequences."""
    max_runtime_days: Positive | None = None


class _Decides(Strict):
    role: MetricRole
    direction: Direction
    """Which way is good."""
    margin: Positive | None = None
    """Harm still accepted, in the effect's unit; guardrails need one."""
    score: ScoreItem | None = None
    population: Population = Population.INTENTION_TO_TREAT
    alternative: Annotated[Alternative, BeforeValidator(dashed)] = Alternative.TWO_SIDED

    @model_validator(mode="after")
    def _fits_the_role(self) -> Self:
        if self.role is MetricRole.GUARDRAIL:
            if self.margin is None:
                raise ValueError(
                    'a guardrail needs a margin, the harm still accepted, such as "margin": 0.01'
                )
            if self.alternative is not Alternative.TWO_SIDED:
                raise ValueError("a guardrail is tested on both sides; leave out alternative")
        good = Alternative.GREATER if self.direction is Direction.INCREASE else Alternative.LESS
        if self.alternative not in (Alternative.TWO_SIDED, good):
            raise ValueError(
                f"alternative {self.alternative.value!r} tests the bad direction of a metric that "
                f"should {self.direction.value}; allowed: 'two-sided' and {good.value!r}"
            )
        return self


class DecidedMean(_Decides, MeanMetric):
    """A mean with its role."""


class DecidedProportion(_Decides, ProportionMetric):
    """A proportion with its role."""


class DecidedRatio(_Decides, RatioMetric):
    """A ratio with its role."""


class DecidedQuantile(_Decides, QuantileMetric):
    """A quantile with its role."""


DecidedMetric = Annotated[
    DecidedMean | DecidedProportion | DecidedRatio | DecidedQuantile, Field(discriminator="kind")
]


class DecisionSummary(Strict):
    """An experiment to be decided."""

    schema_version: Literal[1] = 1
    experiment: Annotated[str, Field(min_length=1)]
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    exposures: Arms
    """Units exposed so far."""
    allocation: Shares
    """The split they should have, constant since the start of the data, or that of now."""
    periods: tuple[PeriodSpec, ...] = ()
    """Periods of a split that moved, in their order, instead of `looks`; metrics then have a
    stratum per period in place of arms, or a method that holds for each arm by itself."""
    looks: tuple[Arms, ...] = ()
    """Cumulative exposures at earlier looks; they sharpen the sequential split test."""
    runtime_days: Annotated[FiniteFloat, Field(ge=0)]
    plan: PlanSpec = PlanSpec()
    health: HealthSpec = HealthSpec()
    policy: Policy = Policy()
    events_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    metrics: Annotated[tuple[DecidedMetric, ...], Field(min_length=1)]
    """A metric without `sequential` is analysed always-valid, tuned to the planned size; an
    explicit null asks for a fixed horizon, which counts at the planned size only."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [(metric.name, metric.population) for metric in self.metrics]
        twice = sorted({name for name, where in keys if keys.count((name, where)) > 1})
        if twice:
            raise ValueError(f"metrics {twice!r} appear twice in one population; make them unique")
        if self.periods and self.looks:
            raise ValueError("looks are for a split that did not move; leave them out with periods")
        missing = self.health.missing_outcomes
        for arm in ("control", "treatment"):
            exposed = getattr(self.exposures, arm)
            if missing is not None and getattr(missing, arm) > exposed:
                raise ValueError(
                    f"missing_outcomes.{arm} is {getattr(missing, arm)} of {exposed} exposed units"
                )
        return self
