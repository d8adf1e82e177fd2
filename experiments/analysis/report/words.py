"""How numbers read: with the digits that their size deserves, and no sign for a zero."""

from experiments.decision.evidence import MetricEvidence
from experiments.decision.verdict import Verdict
from experiments.stats.comparison import Effect

VERDICTS = {
    Verdict.PROMOTE_B: "Promote the treatment",
    Verdict.KEEP_A: "Keep the control",
    Verdict.NO_CLEAR_WINNER: "No clear winner",
}


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a value with three significant digits, thousands with separators."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    if abs(value) >= 1000:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}z.3g}"


def percent(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """Return a share as percent."""
    return "–" if value is None else f"{100 * value:{'+' if signed else ''}z.{digits}f} %"


def p_value(value: float | None) -> str:
    """Return a p-value; below one in ten thousand its digits say nothing."""
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def effect(metric: MetricEvidence, value: float | None, *, signed: bool = True) -> str:
    """Return a value in the unit of the metric's effect."""
    if metric.effect_kind is Effect.RELATIVE:
        return percent(value, signed=signed)
    return number(value, signed=signed)


def interval(metric: MetricEvidence) -> str:
    """Return both ends of the interval."""
    if metric.effect is None:
        return "–"
    low = "-inf" if metric.ci_lower is None else effect(metric, metric.ci_lower)
    high = "inf" if metric.ci_upper is None else effect(metric, metric.ci_upper)
    return f"{low} to {high}"
