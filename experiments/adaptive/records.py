"""What an adaptive experiment knows, sees and decides, as plain data that a journal keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from experiments.adaptive.declaration import AdaptiveDeclaration, Method
from experiments.decision.verdict import Reason as DecisionReason
from experiments.decision.verdict import Verdict
from experiments.steering import records as steering
from experiments.steering.records import CLOSED, Decided, Seen, Standing


class Status(StrEnum):
    """Where an adaptive experiment stands."""

    LEARNING = "learning"
    RECOMMENDED = "recommended"
    """A variant is recommended; the split stays as it is."""
    CONFLICT = "conflict"
    """Somebody else changed what is served; the controller keeps its hands off."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self is not Status.LEARNING


class Action(StrEnum):
    """What to do now."""

    HOLD = "hold"
    MOVE = "move"
    """Deploy another split for new units."""
    RECOMMEND = "recommend"
    ADOPT = "adopt"
    """Somebody deployed the same split with something else changed; go on from there."""
    REFUSE = "refuse"
    """What is served is not what was deployed here; end without touching anything."""


class Code(StrEnum):
    """Why."""

    OVER = "OVER"
    CONFIG_UNKNOWN = "CONFIG_UNKNOWN"
    """Gateways do not answer, or do not agree yet."""
    CONFIG_FOREIGN = "CONFIG_FOREIGN"
    CONFIG_ADOPTED = "CONFIG_ADOPTED"
    FILE_EDITED = "FILE_EDITED"
    """The config file holds an edit that is not deployed; a move would deploy it unasked."""
    UNHEALTHY = "UNHEALTHY"
    """The data cannot be believed, so it moves nothing."""
    GUARDRAIL_BREACHED = "GUARDRAIL_BREACHED"
    TOO_EARLY = "TOO_EARLY"
    TOO_FEW_UNITS = "TOO_FEW_UNITS"
    METRIC_UNDEFINED = "METRIC_UNDEFINED"
    BURN_IN = "BURN_IN"
    """Equal shares until every variant has enough units."""
    FOLLOWS_RESULTS = "FOLLOWS_RESULTS"
    UNCHANGED = "UNCHANGED"
    """The results ask for the split that is served."""
    BEST_KNOWN = "BEST_KNOWN"
    """One variant is the best one with the declared probability."""
    LOSS_SMALL = "LOSS_SMALL"
    """Choosing one variant costs at most the declared loss."""
    TRACKING_STOPPED = "TRACKING_STOPPED"
    """Track-and-stop's likelihood ratio has passed its threshold."""


Reason = steering.Reason[Code]
"""One reason."""
Served = steering.Served[Mapping[str, float]]
"""A split, in percent by variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was declared."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    method: Method
    metric: str
    min_percent: float
    max_step: float
    min_units_per_arm: int
    min_new_units: int
    every_s: float
    seed: int
    best_probability: float
    max_expected_loss: float | None

    @classmethod
    def of(cls, declared: AdaptiveDeclaration, metric: str) -> "Plan":
        """Return the plan of a declaration."""
        return cls(
            method=declared.method,
            metric=metric,
            min_percent=float(declared.min_share),
            max_step=float(declared.max_step),
            min_units_per_arm=declared.min_units_per_arm,
            min_new_units=declared.min_new_units,
            every_s=float(declared.every_s),
            seed=declared.seed,
            best_probability=declared.best_probability,
            max_expected_loss=declared.max_expected_loss,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Standing):
    """Where an adaptive experiment stands."""

    plan: Plan
    status: Status = Status.LEARNING
    served: Served
    pending: Served | None = None
    served_at: float = 0.0
    """When it was in force, in seconds since the epoch."""
    units_then: int = 0
    """Sessions of the experiment when it was decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is known of one variant: the mean over periods, each with the weight of its size."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    n: int
    """Sessions that have the metric."""
    mean: float
    """Turned so that larger is better."""
    standard_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation(Seen):
    """Everything that one decision may rest on."""

    file: Served | None
    units: int = 0
    """Sessions of the experiment."""
    arms: Mapping[str, Arm] = field(default_factory=dict)
    """By variant; empty where the metric is not comparable yet."""
    problem: str = ""
    """Why it is not."""
    doubts: tuple[DecisionReason, ...] = ()
    """Why the data cannot be believed, as `carril exp decide` would say."""
    breached: tuple[DecisionReason, ...] = ()
    """Guardrails that are shown to be beyond their margins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Which variant to take."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    verdict: Verdict
    """PROMOTE_B for a treatment, KEEP_A for the control, as `carril exp decide` has them."""
    variant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Decided):
    """What to do, and why."""

    action: Action
    reasons: tuple[Reason, ...]
    percent: Mapping[str, float] | None = None
    seed: int | None = None
    """Of the draws that the shares came from."""
    best: Mapping[str, float] = field(default_factory=dict)
    """Probability to be best, by variant."""
    loss: Mapping[str, float] = field(default_factory=dict)
    """Expected loss of choosing a variant, in the metric's unit."""
    recommendation: Recommendation | None = None


Record = steering.DecisionRecord[State, Observation, Decision]
"""A decision with everything it rested on."""
