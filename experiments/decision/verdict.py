"""The decision: a verdict, the reasons for it, and every check on the way."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from experiments.decision.evidence import SCHEMA_VERSION
from experiments.decision.policy import Policy


class Verdict(StrEnum):
    """What to do."""

    PROMOTE_B = "PROMOTE_B"
    """Treatment replaces control."""
    KEEP_A = "KEEP_A"
    """Control stays."""
    NO_CLEAR_WINNER = "NO_CLEAR_WINNER"
    """Nothing is decided; the reasons say whether to wait, repair or stop."""


class ReasonCode(StrEnum):
    """Why. The first reason of a decision is its category, the rest say what exactly."""

    INVALID = "INVALID"
    """The data cannot be believed; repair and restart."""
    INSUFFICIENT = "INSUFFICIENT"
    """Too early; wait."""
    CONFIG_CONFLICT = "CONFIG_CONFLICT"
    SAMPLE_RATIO_MISMATCH = "SAMPLE_RATIO_MISMATCH"
    SAMPLE_RATIO_SUSPECTED = "SAMPLE_RATIO_SUSPECTED"
    MULTIPLE_EXPOSURE = "MULTIPLE_EXPOSURE"
    OUTCOME_LOSS_DIFFERS = "OUTCOME_LOSS_DIFFERS"
    METRIC_UNDEFINED = "METRIC_UNDEFINED"
    NO_PRIMARY_METRIC = "NO_PRIMARY_METRIC"
    TOO_FEW_UNITS = "TOO_FEW_UNITS"
    BELOW_PLANNED_SIZE = "BELOW_PLANNED_SIZE"
    NO_PLAN = "NO_PLAN"
    RUNTIME_TOO_SHORT = "RUNTIME_TOO_SHORT"
    GUARDRAIL_BREACHED = "GUARDRAIL_BREACHED"
    GUARDRAIL_OPEN = "GUARDRAIL_OPEN"
    PRIMARY_BETTER = "PRIMARY_BETTER"
    PRIMARY_WORSE = "PRIMARY_WORSE"
    PRIMARY_INCONCLUSIVE = "PRIMARY_INCONCLUSIVE"
    PRIMARY_MIXED = "PRIMARY_MIXED"
    NON_INFERIOR = "NON_INFERIOR"
    TIE_BREAK_SCORE = "TIE_BREAK_SCORE"
    POPULATIONS_DISAGREE = "POPULATIONS_DISAGREE"


class CheckOutcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    code: ReasonCode
    detail: str = ""
    metric: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One step of the decision, in the order in which it was taken."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    outcome: CheckOutcome
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreLine:
    """Points of one item."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    item: str
    metric: str
    weight: float
    effect: float
    """Effect with positive meaning better."""
    points_a: float
    points_b: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The weighted score as arithmetic."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    lines: tuple[ScoreLine, ...]
    total_a: float
    total_b: float
    arithmetic: str
    """The sums written out, such as `B = 3 (satisfaction) + 1 (latency) = 4`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict that can be checked by hand."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    experiment: str
    verdict: Verdict
    reasons: tuple[Reason, ...]
    checks: tuple[Check, ...]
    """All checks in order, also those after the one that decided."""
    score: Score | None
    """Always kept when metrics are scored; decides only where a reason says so."""
    adjusted_p_values: tuple[tuple[str, float], ...]
    """Holm-adjusted p-values: primary metrics among themselves, secondary ones in one family with
    the primary ones."""
    units_left: int | None
    """Units until the planned size; None without a plan."""
    days_left: int | None
    """Days until then at the traffic so far; None without a plan or traffic."""
    policy: Policy
    evidence_sha256: str
    """Hash of the canonical evidence this was decided from."""

    @property
    def codes(self) -> tuple[ReasonCode, ...]:
        """Reason codes in order."""
        return tuple(reason.code for reason in self.reasons)

    @property
    def is_valid(self) -> bool:
        """Whether the data can be believed; else no number of it is worth showing as a result."""
        return ReasonCode.INVALID not in self.codes
