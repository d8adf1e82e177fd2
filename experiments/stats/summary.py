"""The summary file: aggregates that come from elsewhere, validated strictly.

`carril exp analyze --summary FILE` reads it. `arm_schema` says what an arm of each kind holds.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, FiniteFloat, model_validator

from experiments.stats.analysis import Arm, Method, MetricInput, Sequential, SequentialMethod
from experiments.stats.arm_schema import MeanArm, ProportionArm, QuantileArm, RatioArm, Strict
from experiments.stats.comparison import Alternative, Effect
from experiments.stats.cuped import CupedStats
from experiments.stats.cuped_ratio import CupedRatioStats
from experiments.stats.group_sequential import Spending
from experiments.stats.multiplicity import Correction
from experiments.stats.sequential import DEFAULT_N_STAR
from experiments.stats.stratified import Stratum

SCHEMA_VERSION: Literal[1] = 1
"""Version of the file format."""

_SEQUENTIAL_ALIASES = {
    "always_valid": SequentialMethod.ASYMPTOTIC_CS,
    "asymptotic": SequentialMethod.ASYMPTOTIC_CS,
    "asymptotic_confidence_sequence": SequentialMethod.ASYMPTOTIC_CS,
    "asymp_cs": SequentialMethod.ASYMPTOTIC_CS,
    "asympcs": SequentialMethod.ASYMPTOTIC_CS,
    "confidence_sequences": SequentialMethod.ASYMPTOTIC_CS,
    "confidence_sequence": SequentialMethod.ASYMPTOTIC_CS,
    "normal_mixture": SequentialMethod.ASYMPTOTIC_CS,
    "gst": SequentialMethod.GROUP_SEQUENTIAL,
    "lan_demets": SequentialMethod.GROUP_SEQUENTIAL,
    "obrien_fleming": SequentialMethod.GROUP_SEQUENTIAL,
}
"""Other names that the literature gives to the same objects."""


def _sequential_method(value: object) -> object:
    if not isinstance(value, str):
        return value
    name = value.lower().replace("-", "_").replace(" ", "_").replace("'", "")
    return _SEQUENTIAL_ALIASES.get(name, name)


def dashed(value: object) -> object:
    """Accept `two_sided` for `two-sided`."""
    return value.replace("_", "-") if isinstance(value, str) else value


class SequentialSpec(Strict):
    """How repeated looks are paid for; null means one look at a fixed horizon."""

    method: Annotated[SequentialMethod, BeforeValidator(_sequential_method)] = (
        SequentialMethod.ASYMPTOTIC_CS
    )
    n_star: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        default=None,
        validation_alias=AliasChoices("n_star", "sequential_tuning_parameter"),
    )
    """Units of both arms where the confidence sequence is tightest, fixed before the start."""
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(), validation_alias=AliasChoices("fractions", "information_fractions")
    )
    spending: Spending = Spending.OBRIEN_FLEMING
    phi: Annotated[float, Field(gt=0)] = 2.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needs = self.method is SequentialMethod.GROUP_SEQUENTIAL
        if needs != bool(self.fractions):
            raise ValueError("fractions are needed by, and only by, group_sequential")
        return self

    def plan(self, default_n_star: float) -> Sequential:
        """Return the settings for the engine."""
        return Sequential(
            method=self.method,
            n_star=default_n_star if self.n_star is None else self.n_star,
            fractions=self.fractions,
            spending=self.spending,
            phi=self.phi,
        )


class _Metric(Strict):
    name: Annotated[str, Field(min_length=1)]
    effect: Effect = Effect.ABSOLUTE
    alternative: Annotated[Alternative, BeforeValidator(dashed)] = Alternative.TWO_SIDED
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Error rate of this metric; that of the file if absent."""
    method: Method | None = None
    sequential: SequentialSpec | None = None

    def _pair(self) -> tuple[Arm | None, Arm | None, tuple[Stratum, ...]]:
        raise NotImplementedError

    def metric_input(self, alpha: float, *, default_n_star: float = DEFAULT_N_STAR) -> MetricInput:
        """Return the engine's input.

        Args:
            alpha: Error rate of the file.
            default_n_star: Tuning size if the metric declares none.

        Raises:
            StatisticsError: If the sums cannot come from data.
        """
        control, treatment, strata = self._pair()
        plan = None if self.sequential is None else self.sequential.plan(default_n_star)
        return MetricInput(
            name=self.name,
            control=control,
            treatment=treatment,
            strata=strata,
            alpha=alpha if self.alpha is None else self.alpha,
            effect=self.effect,
            alternative=self.alternative,
            method=self.method,
            sequential=plan,
        )


class MeanArms(Strict):
    """Both arms of a mean."""

    control: MeanArm
    treatment: MeanArm


class ProportionArms(Strict):
    """Both arms of a proportion."""

    control: ProportionArm
    treatment: ProportionArm


class RatioArms(Strict):
    """Both arms of a ratio."""

    control: RatioArm
    treatment: RatioArm


class QuantileArms(Strict):
    """Both arms of a quantile."""

    control: QuantileArm
    treatment: QuantileArm


class MeanMetric(_Metric):
    """A mean, optionally stratified or adjusted by a covariate."""

    kind: Literal["mean"]
    arms: MeanArms | None = None
    strata: tuple[MeanArms, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        _arms_or_strata(self.arms, self.strata)
        return self

    def _pair(self) -> tuple[Arm | None, Arm | None, tuple[Stratum, ...]]:
        if self.arms is not None:
            return self.arms.control.arm(), self.arms.treatment.arm(), ()
        strata = []
        for pair in self.strata:
            control, treatment = pair.control.arm(), pair.treatment.arm()
            if isinstance(control, CupedStats) or isinstance(treatment, CupedStats):
                raise ValueError("a covariate inside strata is not supported; use one of the two")
            strata.append(Stratum(control, treatment))
        return None, None, tuple(strata)


class ProportionMetric(_Metric):
    """A proportion, optionally stratified."""

    kind: Literal["proportion"]
    arms: ProportionArms | None = None
    strata: tuple[ProportionArms, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        _arms_or_strata(self.arms, self.strata)
        return self

    def _pair(self) -> tuple[Arm | None, Arm | None, tuple[Stratum, ...]]:
        if self.arms is not None:
            return self.arms.control.arm(), self.arms.treatment.arm(), ()
        return (
            None,
            None,
            tuple(Stratum(pair.control.arm(), pair.treatment.arm()) for pair in self.strata),
        )


class RatioMetric(_Metric):
    """A ratio of sums, or a mean per request with sessions as units, optionally stratified."""

    kind: Literal["ratio"]
    arms: RatioArms | None = None
    strata: tuple[RatioArms, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        _arms_or_strata(self.arms, self.strata)
        return self

    def _pair(self) -> tuple[Arm | None, Arm | None, tuple[Stratum, ...]]:
        if self.arms is not None:
            return self.arms.control.arm(), self.arms.treatment.arm(), ()
        ratios = []
        for pair in self.strata:
            control, treatment = pair.control.arm(), pair.treatment.arm()
            if isinstance(control, CupedRatioStats) or isinstance(treatment, CupedRatioStats):
                raise ValueError("a covariate inside strata is not supported; use one of the two")
            ratios.append(Stratum(control, treatment))
        return None, None, tuple(ratios)


class QuantileMetric(_Metric):
    """A quantile such as p95."""

    kind: Literal["quantile"]
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        validation_alias=AliasChoices("quantile", "quantile_value", "level", "nu")
    )
    arms: QuantileArms

    def _pair(self) -> tuple[Arm | None, Arm | None, tuple[Stratum, ...]]:
        level = self.quantile
        return self.arms.control.arm_at(level), self.arms.treatment.arm_at(level), ()


Metric = Annotated[
    MeanMetric | ProportionMetric | RatioMetric | QuantileMetric, Field(discriminator="kind")
]


class Summary(Strict):
    """A file of metrics to be analysed."""

    schema_version: Literal[1] = SCHEMA_VERSION
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    correction: Correction | None = None
    """Adjust the p-values of all metrics of the file as one family; null for none."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [metric.name for metric in self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"metric names {twice!r} appear more than once; make them unique")
        return self


def _arms_or_strata(arms: object, strata: tuple[object, ...]) -> None:
    if (arms is None) == (not strata):
        raise ValueError("give either arms (control and treatment) or a non-empty list of strata")


def finite_or_none(value: float) -> float | None:
    """Return None for an unbounded end: JSON has no infinity."""
    return value if math.isfinite(value) else None
