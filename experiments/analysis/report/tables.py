"""An analysis as rows of text, for the terminal and the page alike."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.analysis.assemble import ARMS
from experiments.analysis.report.document import rates
from experiments.analysis.report.words import effect, interval, number, p_value, percent
from experiments.analysis.result import Analysis
from experiments.decision.evidence import MetricEvidence, Population


class Table(NamedTuple):
    """A titled table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def health(analysis: Analysis) -> Table:
    """Return what must be right before anything else is read."""
    arms = {arm: rates(analysis.counts[arm]) for arm in ARMS}
    shares = analysis.shares
    total = sum(analysis.counts[arm].units for arm in ARMS)
    rows = [
        [
            f"{analysis.variant(arm)} ({arm})",
            percent(shares.get(analysis.variant(arm)), digits=2),
            percent(arms[arm]["units"] / total if total else None, digits=2),
            number(arms[arm]["units"]),
            number(arms[arm]["requests"]),
            percent(arms[arm]["missing_share"], digits=2),
            percent(arms[arm]["error_share"], digits=2),
            percent(arms[arm]["abort_share"], digits=2),
            percent(arms[arm]["cached_share"], digits=2),
            percent(arms[arm]["fallback_share"], digits=2),
        ]
        for arm in ARMS
    ]
    found = analysis.evidence.health
    note = (
        f"split as declared: p {p_value(found.srm_sequential_p)} at every look, "
        f"p {p_value(found.srm_chi2_p)} at this one; {analysis.multi_exposed} units in two arms; "
        f"missing outcomes alike: p {p_value(found.missing_p)}"
    )
    columns = (
        "arm",
        "declared",
        "observed",
        "sessions",
        "requests",
        "no outcome",
        "errors",
        "aborted",
        "cached",
        "fallback",
    )
    return Table("Health", columns, rows, note)


def metrics(analysis: Analysis) -> Table:
    """Return every metric, those of the per-protocol population after the others."""
    adjusted = dict(analysis.decision.adjusted_p_values)
    rows = [metric_row(metric, adjusted.get(metric.name)) for metric in analysis.evidence.metrics]
    columns = (
        "metric",
        "role",
        "sessions A / B",
        "A",
        "B",
        "B against A",
        "interval",
        "p",
        "detectable",
        "method",
    )
    level = f"{100 * (1 - analysis.evidence.alpha):g} %"
    note = (
        f"A is {analysis.control}, B is {analysis.treatment}; {level} intervals; p adjusted by "
        "Holm among primary and secondary metrics; detectable: what this much data finds with "
        "80 % power"
    )
    return Table("Metrics", columns, rows, note)


def metric_row(metric: MetricEvidence, adjusted: float | None) -> list[str]:
    """Return the row of one metric."""
    name = metric.name
    if metric.population is Population.PER_PROTOCOL:
        name += " (per protocol)"
    if metric.effect is None:
        refusal = f"{metric.problem}: {metric.problem_detail}"
        return [name, metric.role.value, "", "", "", refusal, "", "", "", ""]
    itt = metric.population is Population.INTENTION_TO_TREAT
    return [
        name,
        metric.role.value,
        f"{metric.n_control:,} / {metric.n_treatment:,}",
        number(metric.control),
        number(metric.treatment),
        effect(metric, metric.effect),
        interval(metric),
        p_value(adjusted if adjusted is not None and itt else metric.p_value),
        effect(metric, metric.detectable_effect, signed=False),
        metric.method,
    ]


def slices(analysis: Analysis) -> Table:
    """Return the primary metrics on parts of the units."""
    rows = [
        [
            part.dimension,
            part.value,
            f"{part.units['control']:,} / {part.units['treatment']:,}",
            part.metric.name,
            part.metric.problem or effect(part.metric, part.metric.effect),
            interval(part.metric),
        ]
        for part in analysis.slices
    ]
    columns = ("dimension", "value", "sessions A / B", "metric", "B against A", "interval")
    note = "Exploratory: with many slices some differ by chance alone. They never decide."
    return Table("Slices", columns, rows, note)


def checks(analysis: Analysis) -> Table:
    """Return the checks of the decision in the order in which they were made."""
    rows = [[check.name, check.outcome.value, check.detail] for check in analysis.decision.checks]
    return Table("Checks", ("check", "outcome", "detail"), rows)
