"""What the event log says about an adaptive experiment: results per variant, and their health."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.adaptive.records import Arm
from experiments.analysis.assemble import LEAST_IN_PERIOD, kind_of, measure_of
from experiments.analysis.declaration import ExperimentDeclaration, MetricDeclaration, direction_of
from experiments.analysis.errors import NothingToCompare, UnknownExperiment
from experiments.analysis.history import Phase, groups_of, phases
from experiments.analysis.keys import ALL
from experiments.analysis.log import open_log
from experiments.analysis.measures import feedback_metric
from experiments.analysis.pieces import CellSums, Task
from experiments.analysis.run import Options, analyse
from experiments.analysis.sums import Moments
from experiments.analysis.survey import survey
from experiments.decision.checks import describe, guardrail_state, invalidity, selected
from experiments.decision.evidence import MetricRole
from experiments.decision.verdict import Reason, ReasonCode
from experiments.stats.moments import ArmStatistic, MeanStats, ProportionStats
from experiments.stats.noninferiority import Direction, GuardrailState
from experiments.stats.ratio import RatioStats
from experiments.stats.track_and_stop import jeffreys_rate

_CLOCK_SLACK_S = 300.0
"""Exposures this far ahead of now are still a clock of the usual kind."""


class Results(NamedTuple):
    """What the log says of an adaptive experiment."""

    units: int = 0
    arms: Mapping[str, Arm] = {}
    problem: str = ""
    doubts: tuple[Reason, ...] = ()
    breached: tuple[Reason, ...] = ()


def look_at(
    events: Path | str, experiment: str, declaration: ExperimentDeclaration, *, now: float
) -> Results:
    """Return the results of all variants, and what is wrong with them.

    Args:
        events: The event file, which need not be there yet; a text is the address of the central
            database.
        experiment: Its name.
        declaration: As it is served.
        now: Seconds since the epoch.

    Raises:
        UnreadableLog: If the file cannot be read.
    """
    if isinstance(events, Path) and not events.is_file():
        return Results()
    name = declaration.adaptive_metric()
    metric = declaration.metrics[name]
    measure = measure_of(name, metric)
    vote = feedback_metric(measure)
    task = Task(
        experiment,
        declaration.version,
        until=None,
        measures=() if vote else (measure,),
        votes=(vote,) if vote else (),
        keys=(ALL,),
        now=now + _CLOCK_SLACK_S,
        settled=0.0,
    )
    with open_log(events) as log:
        found = survey(log, task)
    groups = groups_of(found.groups)
    if not groups:
        return Results()
    every = phases(groups)
    variants = sorted(declaration.allocation)
    periods = [
        _statistics(found.cells, phase, variants, measure=vote or measure, metric=metric)
        for phase in every
    ]
    units = sum(phase.n_units for phase in every)
    doubts, breached = _health(events, experiment, declaration, now=now)
    return averaged(
        periods, variants, sign=1 if _good(measure, metric) is Direction.INCREASE else -1
    )._replace(units=units, doubts=doubts, breached=breached)


def _good(measure: str, metric: MetricDeclaration) -> Direction:
    return direction_of(measure, metric.direction)


def _statistics(
    cells: Sequence[CellSums],
    phase: Phase,
    variants: Sequence[str],
    *,
    measure: str,
    metric: MetricDeclaration,
) -> dict[str, ArmStatistic]:
    """Return the sufficient statistics of each variant in one period."""
    sums = dict.fromkeys(variants, Moments())
    units = dict.fromkeys(variants, 0)
    for cell in cells:
        if cell.config_hash in phase.config_hashes and cell.variant in sums:
            n, positive, *rest = cell.moments[measure]
            part = Moments(int(n), int(positive), *rest)
            sums[cell.variant] = sums[cell.variant].plus(part)
            units[cell.variant] += cell.counts[0]
    return {name: _statistic(sums[name], units[name], measure, metric) for name in variants}


def _statistic(sums: Moments, units: int, measure: str, metric: MetricDeclaration) -> ArmStatistic:
    is_vote = feedback_metric(metric.measure or "") == measure
    match "mean" if is_vote else kind_of(measure):
        case "proportion":
            return ProportionStats(n=sums.n, successes=sums.positive)
        case "ratio":
            return RatioStats(
                n=sums.n,
                sum=sums.x,
                sum_squares=sums.xx,
                denominator_sum=sums.y,
                denominator_sum_squares=sums.yy,
                sum_products=sums.xy,
            )
        case _:
            n = units if is_vote and metric.unrated == "zero" else sums.n
            return MeanStats(n=n, sum=sums.x, sum_squares=sums.xx)


def averaged(
    periods: Sequence[Mapping[str, ArmStatistic]], variants: Sequence[str], *, sign: int
) -> Results:
    """Average every variant over the periods, with the same weights for all of them.

    So what changes with time moves all variants alike. Periods that lack sessions of a variant are
    left out: they say nothing about differences.
    """
    whole = [p for p in periods if min(arm.n for arm in p.values()) >= LEAST_IN_PERIOD]
    total = sum(arm.n for period in whole for arm in period.values())
    arms = {}
    for name in variants:
        mean = variance = 0.0
        for period in whole:
            weight = sum(arm.n for arm in period.values()) / total
            mean += weight * period[name].estimate
            variance += weight**2 * period[name].variance / period[name].n
        rates = [arm for period in whole if isinstance(arm := period[name], ProportionStats)]
        if variance <= 0 and rates:
            # None of 300 failed, or all: that is known well, and not with certainty.
            n, successes = sum(rate.n for rate in rates), sum(rate.successes for rate in rates)
            known = jeffreys_rate(successes, n)
            mean, variance = known.mean, known.variance / n
        if not whole or variance <= 0:
            fewest = {name: sum(period[name].n for period in periods) for name in variants}
            counted = {name: Arm(n=n, mean=0.0, standard_error=0.0) for name, n in fewest.items()}
            why = f"no session of {name!r} differs from another, so nothing is known of its spread"
            return Results(arms=counted, problem=why if whole else "no period has all variants")
        arms[name] = Arm(
            n=sum(period[name].n for period in whole),
            mean=sign * mean,
            standard_error=math.sqrt(variance),
        )
    return Results(arms=arms)


def _health(
    events: Path | str, experiment: str, declaration: ExperimentDeclaration, *, now: float
) -> tuple[tuple[Reason, ...], tuple[Reason, ...]]:
    """Return what voids the data, and the guardrails that are shown to be breached."""
    doubts: list[Reason] = []
    breached: list[Reason] = []
    policy = declaration.decision.policy
    for treatment in sorted(declaration.allocation.keys() - {declaration.control}):
        try:
            found = analyse(events, experiment, declaration, Options(treatment=treatment, now=now))
        except (NothingToCompare, UnknownExperiment):
            continue  # one of the two has had no session yet
        doubts += invalidity(found.evidence, policy, at_horizon=False)
        breached += [
            Reason(
                code=ReasonCode.GUARDRAIL_BREACHED,
                detail=f"{treatment}: {describe(metric)}",
                metric=metric.name,
            )
            for metric in selected(found.evidence, MetricRole.GUARDRAIL)
            if guardrail_state(metric, at_horizon=False) is GuardrailState.BREACHED
        ]
    unique = dict.fromkeys(doubts)
    return tuple(unique), tuple(breached)
