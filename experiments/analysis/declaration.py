"""What is declared before an experiment starts: the split, what decides, and when.

The gateway's configuration embeds these classes, so that a bad declaration is refused when it is
deployed, and the analysis reads the very same ones.
"""

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from experiments.adaptive.declaration import AdaptiveDeclaration
from experiments.analysis.measures import OUTCOME_MEASURES, feedback_metric
from experiments.assignment.buckets import Hash
from experiments.assignment.declaration import SplitDeclaration
from experiments.decision.evidence import MetricRole, ScoreItem
from experiments.decision.policy import Policy
from experiments.feedback.metrics import BUILT_IN
from experiments.stats.comparison import Effect
from experiments.stats.noninferiority import Direction

MetricName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Positive = Annotated[FiniteFloat, Field(gt=0)]


class Strict(BaseModel):
    """Unknown fields are errors; nothing changes after validation.

    The gateway embeds these classes and must stay light: nothing here imports numpy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Measured(Strict):
    measure: str | None = None
    """A measure of outcomes (`errors`, `aborts`, `requests`, `latency`, `latency_p50`, `_p90`,
    `_p95`, `_p99`, `ttft`, `completion_tokens`, `confidence`) or `feedback.METRIC`; the name of the
    metric if absent."""
    direction: Direction | None = None
    """Which way is good; known for measures of outcomes, thumbs and ratings."""
    effect: Effect = Effect.ABSOLUTE
    """Difference in the metric's unit, or `relative`: 0.1 is ten percent."""
    unrated: Literal["exclude", "zero"] = "exclude"
    """For feedback: sessions without a vote are left out, or count as 0, which is right for events
    such as leads, where silence means no."""


class MetricDeclaration(_Measured):
    """A metric that decides (`primary`), explains (`secondary`) or suggests (`exploratory`)."""

    role: Literal[MetricRole.PRIMARY, MetricRole.SECONDARY, MetricRole.EXPLORATORY] = (
        MetricRole.SECONDARY
    )
    margin: Positive | None = None
    """Difference that does not matter, in the effect's unit: the half-width of a tie."""
    score: ScoreItem | None = None
    """Place in the weighted score, which breaks shown ties only."""


class GuardrailDeclaration(_Measured):
    """A metric that must not get worse by more than its margin."""

    margin: Positive
    """Harm still accepted, in the effect's unit."""


class DecisionDeclaration(Strict):
    """When and how the verdict is made."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Error rate of the verdict, over all looks together."""
    planned_units: Annotated[int, Field(gt=0)] | None = None
    """Sessions of both arms, from `carril exp power`; tunes the confidence sequences."""
    max_runtime_days: Positive | None = None
    """The experiment ends after this time whatever its size."""
    policy: Policy = Policy()
    """Thresholds; see `experiments/decision/policy.py` for each one's origin."""


DEFAULT_METRICS: dict[str, MetricDeclaration] = {
    "thumbs": MetricDeclaration(
        measure="feedback.thumbs",
        role=MetricRole.PRIMARY,
        margin=0.02,
        score=ScoreItem.SATISFACTION,
    ),
    "latency": MetricDeclaration(
        measure="latency", effect=Effect.RELATIVE, score=ScoreItem.LATENCY
    ),
    "confidence": MetricDeclaration(measure="confidence", score=ScoreItem.CONFIDENCE),
}
"""What is measured where nothing is declared: satisfaction decides, the rest explains."""
DEFAULT_GUARDRAILS: dict[str, GuardrailDeclaration] = {
    "errors": GuardrailDeclaration(measure="errors", margin=0.01),
    "latency_p95": GuardrailDeclaration(measure="latency_p95", effect=Effect.RELATIVE, margin=0.25),
}
"""One more session in a hundred with an error, or a tail a quarter longer, is too much."""


class BurstDeclaration(Strict):
    """When errors are so many that nobody waits for statistics.

    Counted over the latest answers rather than over seconds: as quick under heavy traffic, and not
    blind under light traffic.
    """

    last: Annotated[int, Field(ge=5, le=1000)] = 20
    """Latest answers of a variant that are looked at."""
    min_errors: Annotated[int, Field(ge=2)] = 5
    """Errors among them. With 5 % of errors as usual, 5 of the first 10 come up once in 15,000."""
    min_sessions: Annotated[int, Field(ge=1)] = 3
    """Sessions they come from: one person who repeats a poisonous prompt proves nothing."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of errors among them."""
    max_age_s: Positive = 60
    """Older answers are not looked at."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.min_errors > self.last:
            raise ValueError(f"min_errors {self.min_errors} is above last {self.last}")
        return self


CANARY_GUARDRAILS: dict[str, GuardrailDeclaration] = {
    "errors": GuardrailDeclaration(measure="errors", margin=0.02),
    "latency": GuardrailDeclaration(measure="latency", effect=Effect.RELATIVE, margin=0.25),
}
"""Wider than an experiment's: a step must be passable with some hundred sessions."""


class CanaryDeclaration(Strict):
    """How `carril canary run` raises the treatment's share, and what makes it go back."""

    steps: tuple[Decimal, ...] = (Decimal(1), Decimal(5), Decimal(20), Decimal(50), Decimal(100))
    """Percent of units with the treatment, growing."""
    min_units: Annotated[int, Field(ge=1)] = 100
    """New sessions in each arm before a step may be left."""
    min_step_s: Annotated[FiniteFloat, Field(ge=0)] = 600
    """Seconds before a step may be left; also the last one, before the canary is complete."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Rate of false alarms of one guardrail over the whole ramp, shared out between its steps."""
    guardrails: dict[MetricName, GuardrailDeclaration] = CANARY_GUARDRAILS
    """Every one must be shown to be within its margin before the next step; one beyond its margin
    takes the treatment back."""
    burst: BurstDeclaration = BurstDeclaration()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_steps(self.steps)
        if not self.guardrails:
            raise ValueError("guardrails is empty, so nothing could stop a bad treatment")
        for name, metric in self.guardrails.items():
            try:
                check_measure(metric.measure or name, metric.direction, metric.effect)
            except ValueError as error:
                raise ValueError(f"guardrails.{name}: {error}") from error
            known = OUTCOME_MEASURES.get(metric.measure or name)
            if known is not None and known.kind == "quantile":
                raise ValueError(
                    f"guardrails.{name}: {known.name!r} is a quantile, of which a canary computes "
                    "no bound at every look; use 'latency', the mean"
                )
        return self


def check_steps(steps: Sequence[Decimal]) -> None:
    """Refuse a ramp that does not grow.

    Raises:
        ValueError: Naming what is allowed.
    """
    shown = ", ".join(f"{step:f}" for step in steps)
    if not steps or any(not 0 < step <= 100 for step in steps):
        raise ValueError(f"steps are [{shown}]; allowed: percents above 0, up to 100")
    if any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"steps are [{shown}]; every step must be above the one before")
    if any(step * 100 != (step * 100).to_integral_value() for step in steps):
        raise ValueError(f"steps are [{shown}]; the smallest difference is 0.01 percent")


class ExperimentDeclaration(Strict, SplitDeclaration):
    """One experiment: the split, and what it is to show."""

    hypothesis: str = Field(default="", max_length=500)
    """What is expected, and why; shown in the report."""
    metrics: dict[MetricName, MetricDeclaration] = DEFAULT_METRICS
    """What is compared. At least one is primary."""
    guardrails: dict[MetricName, GuardrailDeclaration] = DEFAULT_GUARDRAILS
    """What must not get worse."""
    decision: DecisionDeclaration = DecisionDeclaration()
    canary: CanaryDeclaration | None = None
    """How the treatment's share is raised by itself; the defaults if absent."""
    adaptive: AdaptiveDeclaration | None = None
    """How the split follows the results; where absent, it stays as declared."""

    @model_validator(mode="after")
    def _check_metrics(self) -> Self:
        declared: list[tuple[str, MetricDeclaration | GuardrailDeclaration]] = [
            *self.metrics.items(),
            *self.guardrails.items(),
        ]
        for name, metric in declared:
            try:
                check_measure(metric.measure or name, metric.direction, metric.effect)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        twice = sorted(self.metrics.keys() & self.guardrails.keys())
        if twice:
            raise ValueError(f"{twice} are metrics and guardrails; give the guardrail its own name")
        if all(metric.role is not MetricRole.PRIMARY for metric in self.metrics.values()):
            raise ValueError("no metric has 'role: primary', so nothing could ever be decided")
        scores = [metric.score for metric in self.metrics.values() if metric.score is not None]
        if len(set(scores)) != len(scores):
            raise ValueError("two metrics have the same place in the score")
        return self

    @model_validator(mode="after")
    def _check_adaptive(self) -> Self:
        if self.adaptive is None:
            return self
        self.adaptive.check(variants=len(self.allocation))
        if self.canary is not None:
            raise ValueError("canary and adaptive would both move the split; declare one of them")
        if self.hash is Hash.GROWTHBOOK_V2:
            raise ValueError(
                "hash growthbook_v2 and adaptive contradict each other: GrowthBook's SDKs do not "
                "know which variant a unit was given first; use sha256"
            )
        for group, declared in (("metrics", self.metrics), ("guardrails", self.guardrails)):
            for name, metric in declared.items():
                known = OUTCOME_MEASURES.get(metric.measure or name)
                if known is not None and known.kind == "quantile":
                    raise ValueError(
                        f"{group}.{name}: a quantile of sessions from several splits compares "
                        f"nothing; for an adaptive experiment declare {group} without it, such as "
                        "slower: {measure: latency, effect: relative, margin: 0.25}"
                    )
        self.adaptive_metric()
        return self

    def adaptive_metric(self) -> str:
        """Return the name of the metric that an adaptive split follows.

        Raises:
            ValueError: If it is not declared, or several could be meant.
        """
        primary = [n for n, metric in self.metrics.items() if metric.role is MetricRole.PRIMARY]
        wanted = None if self.adaptive is None else self.adaptive.metric
        if wanted is None and len(primary) == 1:
            return primary[0]
        if wanted not in primary:
            raise ValueError(
                f"adaptive.metric is {wanted!r}; name one of the primary metrics: "
                f"{', '.join(primary)}"
            )
        return wanted

    def feedback_metrics(self) -> set[str]:
        """Return the feedback metrics that must be declared for this experiment."""
        canary = {} if self.canary is None else self.canary.guardrails
        names = [
            feedback_metric(metric.measure or name)
            for group in (self.metrics, self.guardrails, canary)
            for name, metric in group.items()
        ]
        return {name for name in names if name is not None}


def check_measure(measure: str, direction: Direction | None, effect: Effect) -> None:
    """Refuse a measure that does not exist, or cannot be compared as declared.

    Raises:
        ValueError: Naming what is allowed.
    """
    metric = feedback_metric(measure)
    if metric is None:
        if measure not in OUTCOME_MEASURES:
            raise ValueError(
                f"unknown measure {measure!r}; known: {', '.join(OUTCOME_MEASURES)} and "
                "feedback.METRIC"
            )
        if OUTCOME_MEASURES[measure].kind == "proportion" and effect is Effect.RELATIVE:
            raise ValueError(
                f"{measure!r} is a rate of rare events and compared exactly, so its effect is "
                "absolute"
            )
        return
    built_in = BUILT_IN.get(metric)
    if built_in is not None and built_in.direction == "none":
        raise ValueError(f"{measure!r} is no number; declare a boolean, integer or float metric")
    if built_in is None and direction is None:
        raise ValueError(f"{measure!r} needs a direction: increase or decrease")


def direction_of(measure: str, declared: Direction | None) -> Direction:
    """Return which way is good."""
    if declared is not None:
        return declared
    known = OUTCOME_MEASURES.get(measure)
    return Direction.INCREASE if known is None else known.direction
