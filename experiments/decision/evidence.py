"""Everything a decision may rest on, as plain data: nothing is read from anywhere else."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from experiments.stats.comparison import Effect
from experiments.stats.noninferiority import Direction

SCHEMA_VERSION = 1
"""Version of evidence and decision files. Readers refuse newer ones."""


class MetricRole(StrEnum):
    """What a metric is for."""

    PRIMARY = "primary"
    """Decides."""
    SECONDARY = "secondary"
    """Explains; corrected together with the primary ones."""
    GUARDRAIL = "guardrail"
    """Must not get worse than its margin."""
    EXPLORATORY = "exploratory"
    """Suggests; never decides."""


class Population(StrEnum):
    """Which units a metric was measured on."""

    INTENTION_TO_TREAT = "intention_to_treat"
    """All enrolled units as assigned, fallback-served and cached ones included; it decides."""
    PER_PROTOCOL = "per_protocol"
    """Units really served by their arm; shown beside it."""


class ScoreItem(StrEnum):
    """Place of a metric in the weighted score."""

    SATISFACTION = "satisfaction"
    LEADS = "leads"
    LATENCY = "latency"
    CONFIDENCE = "confidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEvidence:
    """One metric, already compared. Numbers are None when the comparison was refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    role: MetricRole
    direction: Direction
    """Which way is good."""
    population: Population = Population.INTENTION_TO_TREAT
    effect_kind: Effect
    effect: float | None = None
    ci_lower: float | None = None
    """None with an effect present means unbounded below."""
    ci_upper: float | None = None
    standard_error: float | None = None
    p_value: float | None = None
    method: str = ""
    always_valid: bool = False
    """False: counts at the horizon only, because looking earlier would spend its error rate."""
    n_control: int = 0
    n_treatment: int = 0
    control: float | None = None
    treatment: float | None = None
    margin: float | None = None
    """Harm still accepted and half-width of a tie, in the effect's unit; guardrails need one."""
    detectable_effect: float | None = None
    """Effect that a look with this standard error finds with 80 % power."""
    problem: str | None = None
    """Code of the refusal, such as ZERO_VARIANCE; None if there are numbers."""
    problem_detail: str = ""
    score: ScoreItem | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"margin of {self.name!r} is {self.margin!r}; allowed: above 0")
        if self.role is MetricRole.GUARDRAIL and self.margin is None:
            raise ValueError(
                f"guardrail {self.name!r} has no margin; declare the harm that is still accepted"
            )
        if (self.effect is None) == (self.problem is None):
            raise ValueError(f"metric {self.name!r} needs either an effect or a problem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the data can be believed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    n_control: int
    """Exposed units of control."""
    n_treatment: int
    srm_chi2_p: float
    """Chi-squared p-value of the split; one look."""
    srm_sequential_p: float
    """Anytime-valid p-value of the split."""
    multi_exposed_units: int = 0
    """Units seen in more than one arm."""
    missing_control: int = 0
    """Exposed units of control without the outcome that is logged for every served unit."""
    missing_treatment: int = 0
    missing_p: float = 1.0
    """Chi-squared p-value of equal shares of missing outcomes."""
    conflicts: tuple[str, ...] = ()
    """Changes that void the experiment: renamed, re-salted, arm redefined mid-run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the experiment is."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    planned_units: int | None
    """Units of both arms from the power plan; None if nothing was planned."""
    runtime_days: float
    max_runtime_days: float | None = None
    """Horizon in time, after which the experiment ends whatever its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The whole input of a decision, apart from the policy."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    experiment: str
    alpha: float
    """Error rate of the verdict, in (0, 1)."""
    health: Health
    progress: Progress
    metrics: tuple[MetricEvidence, ...]
    events_sha256: str | None = None
    """Hash of the events the numbers were computed from; None if they came as aggregates."""
