"""What a canary knows, sees and decides, as plain data that a journal keeps and a replay reads."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from experiments.analysis.declaration import CanaryDeclaration
from experiments.decision.evidence import Health, MetricEvidence
from experiments.steering import records as steering
from experiments.steering.records import CLOSED, Decided, Seen, Standing


class Status(StrEnum):
    """Where a canary stands."""

    READY = "ready"
    """Not started: the treatment has no traffic of this canary yet."""
    RAMPING = "ramping"
    PAUSED = "paused"
    """The data cannot be believed. The split stays until somebody resumes; harm rolls back."""
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    CONFLICT = "conflict"
    """Somebody else changed what is served; the canary keeps its hands off."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (Status.COMPLETED, Status.ROLLED_BACK, Status.CONFLICT)


class Action(StrEnum):
    """What to do now."""

    HOLD = "hold"
    START = "start"
    ADVANCE = "advance"
    COMPLETE = "complete"
    ROLL_BACK = "roll_back"
    PAUSE = "pause"
    RESUME = "resume"
    ADOPT = "adopt"
    """Somebody deployed the same split with something else changed; go on from there."""
    REFUSE = "refuse"
    """What is served is not what the canary deployed; end without touching anything."""


class Code(StrEnum):
    """Why."""

    BY_HAND = "BY_HAND"
    """Somebody asked for it."""
    STARTED = "STARTED"
    OVER = "OVER"
    CONFIG_UNKNOWN = "CONFIG_UNKNOWN"
    """Gateways do not answer, or do not agree yet."""
    CONFIG_FOREIGN = "CONFIG_FOREIGN"
    CONFIG_ADOPTED = "CONFIG_ADOPTED"
    FILE_EDITED = "FILE_EDITED"
    """The config file holds an edit that is not deployed; a step would deploy it unasked."""
    ERROR_BURST = "ERROR_BURST"
    ERROR_BURST_EVERYWHERE = "ERROR_BURST_EVERYWHERE"
    GUARDRAIL_BREACHED = "GUARDRAIL_BREACHED"
    GUARDRAIL_OPEN = "GUARDRAIL_OPEN"
    GUARDRAIL_UNKNOWN = "GUARDRAIL_UNKNOWN"
    GUARDRAILS_PASSED = "GUARDRAILS_PASSED"
    SAMPLE_RATIO_MISMATCH = "SAMPLE_RATIO_MISMATCH"
    MULTIPLE_EXPOSURE = "MULTIPLE_EXPOSURE"
    CONFIG_CONFLICT = "CONFIG_CONFLICT"
    PAUSED = "PAUSED"
    TOO_EARLY = "TOO_EARLY"
    TOO_FEW_UNITS = "TOO_FEW_UNITS"
    RAMP_DONE = "RAMP_DONE"


Reason = steering.Reason[Code]
"""One reason."""
Served = steering.Served[float]
"""A split, as the percent of the treatment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Declared limits of an error burst; see `BurstDeclaration`."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    last: int
    min_errors: int
    min_sessions: int
    share: float
    max_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was declared."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    steps: tuple[float, ...]
    """Percent of units with the treatment."""
    min_units: int
    min_step_s: float
    alpha: float
    burst: Burst
    srm_alpha: float
    """Anytime-valid p-value at or below which the split is not the deployed one."""
    max_multi_exposed_share: float

    @classmethod
    def of(cls, declared: CanaryDeclaration, *, srm_alpha: float, max_multi: float) -> "Plan":
        """Return the plan of a declaration."""
        return cls(
            steps=tuple(float(step) for step in declared.steps),
            min_units=declared.min_units,
            min_step_s=float(declared.min_step_s),
            alpha=declared.alpha,
            burst=Burst(**declared.burst.model_dump()),
            srm_alpha=srm_alpha,
            max_multi_exposed_share=max_multi,
        )

    @property
    def look_alpha(self) -> float:
        """Error rate of one guardrail in one step: alpha over the steps that have a control."""
        return self.alpha / max(1, sum(step < 100 for step in self.steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Standing):
    """Where a canary stands."""

    treatment: str
    plan: Plan
    status: Status = Status.READY
    served: Served
    pending: Served | None = None
    step: int = -1
    """Index into the plan's steps; -1 before the first."""
    step_at: float = 0.0
    """When the step was in force, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """The latest answers of a variant."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    answers: int = 0
    errors: int = 0
    error_sessions: int = 0
    first_error_at: float | None = None
    codes: tuple[str, ...] = ()
    """Error codes, the most frequent first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The guardrails of one step, compared."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    n_control: int
    n_treatment: int
    guardrails: tuple[MetricEvidence, ...]
    health: Health | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation(Seen):
    """Everything that one decision may rest on."""

    file: Served | None
    look: Look | None = None
    """None where there is nothing to compare: no units yet, or no control any more."""
    clean_at: float | None = None
    """When the guardrails were looked at before this look; they showed no harm then."""
    control: Recent = field(default_factory=Recent)
    treatment: Recent = field(default_factory=Recent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Decided):
    """What to do, and why."""

    action: Action
    reasons: tuple[Reason, ...]
    percent: float | None = None


Record = steering.DecisionRecord[State, Observation, Decision]
"""A decision with everything it rested on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """That a decision was carried out. Written afterwards: harm does not wait for a hash."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    schema_version: int = steering.SCHEMA_VERSION
    number: int
    record_sha256: str
    applied_at: float
    """When every gateway had the new split."""
    events_sha256: str | None
    """Hash of the experiment's events in the snapshot that was read, as `carril exp decide` has;
    None if the controller died in between."""
