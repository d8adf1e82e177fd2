"""What can be measured on the sessions of an experiment.

A measure is two numbers per session, x and y. A *ratio* is sum x / sum y over sessions with y > 0,
a *mean* the mean of x over them, a *proportion* the share of them with x > 0, a *quantile* is taken
over single answers. Answers that somebody else's request paid for (cache hits and joins) have no
latency and no cost of their own: they are in no measure of either.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.stats.noninferiority import Direction

FEEDBACK_PREFIX = "feedback."
LONGEST_S = 1e6
"""No request lasts longer than this; what claims to is counted as impossible, and left out."""

Kind = Literal["mean", "ratio", "proportion", "quantile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure by name."""

    name: str
    kind: Kind
    direction: Direction
    """Which way is good."""
    description: str
    level: float | None = None
    """Level of a quantile."""
    unit: str = ""
    """For reports."""


def _quantile(percent: int) -> Measure:
    return Measure(
        name=f"latency_p{percent}",
        kind="quantile",
        direction=Direction.DECREASE,
        description=f"seconds within which {percent} % of fresh answers are complete",
        level=percent / 100,
        unit="s",
    )


OUTCOME_MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="errors",
            kind="proportion",
            direction=Direction.DECREASE,
            description="sessions in which at least one request failed",
        ),
        Measure(
            name="aborts",
            kind="proportion",
            direction=Direction.DECREASE,
            description="sessions in which the user left before an answer was complete",
        ),
        Measure(
            name="requests",
            kind="mean",
            direction=Direction.INCREASE,
            description="requests per session",
        ),
        Measure(
            name="latency",
            kind="ratio",
            direction=Direction.DECREASE,
            description="seconds per fresh answer, from the gateway's first byte to the last",
            unit="s",
        ),
        Measure(
            name="ttft",
            kind="ratio",
            direction=Direction.DECREASE,
            description="seconds to the first token of a fresh answer",
            unit="s",
        ),
        Measure(
            name="completion_tokens",
            kind="ratio",
            direction=Direction.DECREASE,
            description="tokens generated per fresh answer, which is what an answer costs",
        ),
        Measure(
            name="confidence",
            kind="ratio",
            direction=Direction.INCREASE,
            description="confidence that a JSON answer claims for itself",
        ),
        *(_quantile(percent) for percent in (50, 90, 95, 99)),
    )
}
"""Measures of the outcomes that the gateway logs; feedback adds `feedback.NAME`."""


def feedback_metric(measure: str) -> str | None:
    """Return the feedback metric that a measure is about; None for a measure of outcomes."""
    return measure.removeprefix(FEEDBACK_PREFIX) if measure.startswith(FEEDBACK_PREFIX) else None
