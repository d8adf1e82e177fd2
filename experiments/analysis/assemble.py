"""From sums to the input of the decision: every metric in the summary format that users write too.

`carril exp decide --summary FILE` and the analysis of the log meet here; what follows is one path.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.analysis.declaration import (
    ExperimentDeclaration,
    GuardrailDeclaration,
    MetricDeclaration,
    direction_of,
)
from experiments.analysis.measures import OUTCOME_MEASURES, Kind, feedback_metric
from experiments.analysis.sums import Cell, Counts, Moments
from experiments.decision.evidence import MetricRole, Population
from experiments.decision.summary import (
    DecidedMean,
    DecidedMetric,
    DecidedProportion,
    DecidedQuantile,
    DecidedRatio,
)
from experiments.stats.analysis import SequentialMethod
from experiments.stats.arm_schema import MeanArm, ProportionArm, QuantileArm, RatioArm
from experiments.stats.summary import (
    MeanArms,
    ProportionArms,
    QuantileArms,
    RatioArms,
    SequentialSpec,
)

ARMS = ("control", "treatment")

LEAST_IN_PERIOD = 5
"""Units of each arm with which a period counts. A variance needs two; with five its estimate is not
mostly zero for a rate."""

Declared = MetricDeclaration | GuardrailDeclaration


def declared_metrics(declaration: ExperimentDeclaration) -> dict[str, Declared]:
    """Return metrics and guardrails by name, metrics first."""
    return {**declaration.metrics, **declaration.guardrails}


def measure_of(name: str, declared: Declared) -> str:
    """Return the measure that a metric is about."""
    return declared.measure or name


def kind_of(measure: str) -> Kind:
    """Return how a measure is compared."""
    return "mean" if feedback_metric(measure) is not None else OUTCOME_MEASURES[measure].kind


def add_up(cells: Iterable[Cell], measure: str) -> dict[str, Moments]:
    """Return the sums of a measure per arm."""
    totals = dict.fromkeys(ARMS, Moments())
    for cell in cells:
        arm = ARMS[cell.treatment]
        totals[arm] = totals[arm].plus(cell.moments.get(measure, Moments()))
    return totals


def count_up(cells: Iterable[Cell]) -> dict[str, Counts]:
    """Return the counts per arm."""
    totals = dict.fromkeys(ARMS, Counts())
    for cell in cells:
        arm = ARMS[cell.treatment]
        totals[arm] = totals[arm].plus(cell.counts)
    return totals


def metric_input(
    name: str,
    declared: Declared,
    sums: Mapping[str, Moments],
    units: Mapping[str, Counts],
    population: Population,
) -> DecidedMetric:
    """Return a metric with its sums, ready to be compared.

    Args:
        name: Its name.
        declared: Its declaration.
        sums: Sums per arm, in this population.
        units: Counts per arm, in this population.
        population: Which one.
    """
    measure = measure_of(name, declared)
    base = _base(name, declared, measure, population)
    match kind_of(measure):
        case "proportion":
            # Errors may be rare or none: half of alpha is exact, from the first session on.
            hedged = SequentialSpec(method=SequentialMethod.RATE_HEDGED)
            return DecidedProportion(
                **base, kind="proportion", sequential=hedged, arms=_proportions(sums)
            )
        case "ratio":
            return DecidedRatio(**base, kind="ratio", arms=_ratios(sums))
        case _:
            return DecidedMean(**base, kind="mean", arms=_means(measure, declared, sums, units))


def periods_input(
    name: str, declared: Declared, periods: Sequence[Sequence[Cell]], population: Population
) -> DecidedMetric:
    """Return a metric whose units came under several splits, ready to be compared.

    Pooling the periods would confound variants with time. Means and ratios are compared within
    each period, which has one split, and averaged by its size; periods with few units in an arm are
    left out, whatever their outcomes. Rare events would leave most periods empty, so a proportion
    has an exact sequence for each arm by itself: it holds however the split followed the
    outcomes, as long as the arm's rate does not drift.

    Args:
        name: Its name.
        declared: Its declaration.
        periods: Cells of each period, in this population.
        population: Which one.
    """
    measure = measure_of(name, declared)
    base = _base(name, declared, measure, population)
    key = feedback_metric(measure) or measure
    kind = kind_of(measure)
    if kind == "proportion":
        sums = add_up((cell for period in periods for cell in period), key)
        exact = SequentialSpec(method=SequentialMethod.BERNOULLI_EXACT)
        return DecidedProportion(
            **base, kind="proportion", sequential=exact, arms=_proportions(sums)
        )
    if kind == "ratio":
        ratios = [_ratios(add_up(period, key)) for period in periods]
        kept = tuple(r for r in ratios if min(r.control.n, r.treatment.n) >= LEAST_IN_PERIOD)
        return DecidedRatio(
            **base, kind="ratio", strata=kept, arms=None if kept else _ratios(add_up((), key))
        )
    means = [_means(measure, declared, add_up(p, key), count_up(p)) for p in periods]
    large = tuple(m for m in means if min(m.control.n, m.treatment.n) >= LEAST_IN_PERIOD)
    nothing = _means(measure, declared, add_up((), key), count_up(()))
    return DecidedMean(**base, kind="mean", strata=large, arms=None if large else nothing)


def quantile_input(
    name: str, declared: Declared, level: float, arms: Mapping[str, QuantileArm]
) -> DecidedMetric:
    """Return a quantile metric, ready to be compared."""
    base = _base(name, declared, measure_of(name, declared), Population.INTENTION_TO_TREAT)
    return DecidedQuantile(
        **base,
        kind="quantile",
        quantile=level,
        arms=QuantileArms(**{arm: arms[arm] for arm in ARMS}),
    )


def _base(
    name: str, declared: Declared, measure: str, population: Population
) -> dict[str, Any]:  # keyword arguments of four classes
    if isinstance(declared, GuardrailDeclaration):
        role, score = MetricRole.GUARDRAIL, None
    else:
        role, score = MetricRole(declared.role), declared.score
    return {
        "name": name,
        "role": role,
        "direction": direction_of(measure, declared.direction),
        "effect": declared.effect,
        "margin": declared.margin,
        "score": score,
        "population": population,
    }


def _proportions(sums: Mapping[str, Moments]) -> ProportionArms:
    return ProportionArms(
        **{arm: ProportionArm(n=sums[arm].n, sum=sums[arm].positive) for arm in ARMS}
    )


def _ratios(sums: Mapping[str, Moments]) -> RatioArms:
    return RatioArms(**{arm: _ratio(sums[arm]) for arm in ARMS})


def _means(
    measure: str, declared: Declared, sums: Mapping[str, Moments], units: Mapping[str, Counts]
) -> MeanArms:
    zeros = declared.unrated == "zero" and feedback_metric(measure) is not None
    arms = {
        arm: MeanArm(
            n=units[arm].units if zeros else sums[arm].n,
            sum=float(sums[arm].x),
            sum_squares=float(sums[arm].xx),
        )
        for arm in ARMS
    }
    return MeanArms(**arms)


def _ratio(sums: Moments) -> RatioArm:
    return RatioArm(
        n=sums.n,
        sum=float(sums.x),
        sum_squares=float(sums.xx),
        denominator_sum=float(sums.y),
        denominator_sum_squares=float(sums.yy),
        sum_products=float(sums.xy),
    )
