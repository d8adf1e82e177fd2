"""How numbers read: with the digits that their size deserves, and no sign for a zero."""

from experiments.decision.evidence import MetricEvidence
from experiments.decision.verdict import ReasonCode, Verdict
from experiments.stats.comparison import Effect

VERDICTS = {
    Verdict.PROMOTE_B: "Promote the treatment",
    Verdict.KEEP_A: "Keep the control",
    Verdict.NO_CLEAR_WINNER: "No clear winner",
}

REASONS = {
    ReasonCode.INVALID: "the data cannot be believed",
    ReasonCode.INSUFFICIENT: "it is too early",
    ReasonCode.CONFIG_CONFLICT: "the experiment was changed while it ran",
    ReasonCode.SAMPLE_RATIO_MISMATCH: "the split is not the declared one: sessions are lost",
    ReasonCode.SAMPLE_RATIO_SUSPECTED: "the split looks odd at this look",
    ReasonCode.MULTIPLE_EXPOSURE: "too many sessions were in both arms",
    ReasonCode.OUTCOME_LOSS_DIFFERS: "outcomes are lost in one arm more than in the other",
    ReasonCode.METRIC_UNDEFINED: "has no value that could be compared",
    ReasonCode.NO_PRIMARY_METRIC: "nothing was declared that could decide",
    ReasonCode.TOO_FEW_UNITS: "too few sessions",
    ReasonCode.BELOW_PLANNED_SIZE: "the planned size is not reached",
    ReasonCode.NO_PLAN: "no size was planned",
    ReasonCode.RUNTIME_TOO_SHORT: "not every weekday is in yet",
    ReasonCode.GUARDRAIL_BREACHED: "harm beyond the margin is shown",
    ReasonCode.GUARDRAIL_OPEN: "harm beyond the margin is not excluded yet",
    ReasonCode.PRIMARY_BETTER: "B is better",
    ReasonCode.PRIMARY_WORSE: "B is worse",
    ReasonCode.PRIMARY_INCONCLUSIVE: "no difference is shown",
    ReasonCode.PRIMARY_MIXED: "B is better here, but worse elsewhere",
    ReasonCode.NON_INFERIOR: "B is not worse than the margin",
    ReasonCode.TIE_BREAK_SCORE: "a tie is shown, and the score breaks it",
    ReasonCode.POPULATIONS_DISAGREE: "per protocol and intention to treat disagree",
}
"""What each reason means; the codes are for machines."""


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a value with three significant digits, thousands with separators."""
    if value is None:
        return "–"
    sign = "+" if signed and value else ""
    if abs(value) >= 1000:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}z.3g}"


def percent(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """Return a share as percent."""
    return "–" if value is None else f"{100 * value:{'+' if signed and value else ''}z.{digits}f} %"


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
