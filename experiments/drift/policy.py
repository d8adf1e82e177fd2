"""What counts as drift: thresholds, samples, windows, error budgets. Read from `drift.yaml`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.alerts.config import AlertConfig
from experiments.drift.errors import BadInput

LONGEST_CHECK_H = 366 * 24.0
"""Hours between two checks at most."""


class SignalName(StrEnum):
    """The signals. The first seven are the family that shares the error budget."""

    CONFIDENCE = "confidence"
    FALLBACK_RATE = "fallback_rate"
    LATENCY_P95 = "latency_p95"
    SATISFACTION = "satisfaction"
    LEAD_CAPTURE = "lead_capture"
    INTENTS = "intents"
    TOKENS = "tokens"
    UNSEEN_INTENTS = "unseen_intents"
    """Beside the seven: traffic on intents that the reference does not have."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Thresholds(_Model):
    """When an effect is a warning, and when it is critical."""

    warning: Annotated[float, Field(gt=0)]
    critical: Annotated[float, Field(gt=0)]
    scale: Literal["default", "relative"] = "default"
    """`relative` makes a drop in percentage points one in percent of the reference: the only way
    for a rate that is lower than the threshold to be able to fall by it."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.warning >= self.critical:
            raise ValueError(
                f"warning is {self.warning!r}, critical {self.critical!r}; warning must be less"
            )
        return self


def _thresholds(warning: float, critical: float) -> Thresholds:
    return Thresholds(warning=warning, critical=critical)


class SignalPolicy(_Model):
    """Thresholds of the signals; the defaults are those of the OKLA assistant's design."""

    confidence: Thresholds = _thresholds(0.10, 0.20)
    """Relative drop of the mean confidence."""
    fallback_rate: Thresholds = _thresholds(0.05, 0.10)
    """Rise of the share of answers that did not understand (0.05: 5 percentage points)."""
    latency_p95: Thresholds = _thresholds(0.50, 1.00)
    """Relative rise of the 95th percentile of the answer time."""
    satisfaction: Thresholds = _thresholds(0.10, 0.20)
    """Drop of the share of good votes, in percentage points / 100."""
    lead_capture: Thresholds = _thresholds(0.15, 0.25)
    """Drop of the share of sessions with a lead, in percentage points / 100."""
    intents: Thresholds = _thresholds(0.30, 0.50)
    """KL(current || reference) in nats, see `intents.py`."""
    tokens: Thresholds = _thresholds(0.30, 0.50)
    """Relative change of the tokens per answer, up or down."""
    unseen_intents: Thresholds = _thresholds(0.01, 0.05)
    """Share of sessions' weight on intents that the reference does not have. Ours."""

    def of(self, name: SignalName) -> Thresholds:
        """Return the thresholds of a signal."""
        found: Thresholds = getattr(self, name.value)
        return found


class SampleSizes(_Model):
    """Least samples per window; with fewer a signal says so instead of a number."""

    sessions: Annotated[int, Field(ge=2)] = 100
    """Confidence, tokens, intents, leads. KL asks for 10 per intent if that is more."""
    answers: Annotated[int, Field(ge=2)] = 200
    """Fallback rate."""
    latencies: Annotated[int, Field(ge=73)] = 400
    """p95: 73 observations is where it exists at all, 400 where its interval is of use."""
    votes: Annotated[int, Field(ge=2)] = 100
    """Satisfaction."""
    reference_sessions: Annotated[int, Field(ge=2)] = 1000
    """Of a baseline."""
    reference_days: Annotated[float, Field(ge=0)] = 7.0
    """Of a baseline: a week has every weekday in it."""


class Windows(_Model):
    """The two windows that have to agree."""

    fast_h: Annotated[float, Field(gt=0)] = 6.0
    """Is it still so? As long as the time between checks."""
    slow_h: Annotated[float, Field(gt=0)] = 24.0
    """How large is it? Whole days, so that day and night are in it as in the reference."""
    max_h: Annotated[float, Field(gt=0)] = 168.0
    """Windows with too few sessions grow backwards up to this: quiet sites are judged too."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.fast_h <= self.slow_h <= self.max_h:
            raise ValueError(
                f"windows are {self.fast_h:g}, {self.slow_h:g}, {self.max_h:g} hours; "
                "fast_h <= slow_h <= max_h must hold"
            )
        return self


class Hysteresis(_Model):
    """How a finding ends."""

    clear_below: Annotated[float, Field(gt=0, le=1)] = 0.8
    """It is over below this share of its threshold ..."""
    clear_checks: Annotated[int, Field(ge=1)] = 2
    """... in so many checks in a row."""


class Sla(_Model):
    """How fast people have to react, in hours from the first check that found it."""

    acknowledge_h: Annotated[float, Field(gt=0)]
    resolve_h: Annotated[float, Field(gt=0)]


class DriftPolicy(_Model):
    """Everything that decides about drift, and who is told."""

    fallback_intents: frozenset[str] = frozenset()
    """Intents that say "not understood". An answer that names no intent counts as well."""
    satisfaction_metric: str = "thumbs"
    """Boolean feedback metric about answers."""
    lead_metric: str = "lead_captured"
    """Boolean feedback metric about sessions; a session without one has no lead."""
    session_idle_h: Annotated[float, Field(gt=0)] = 1.0
    """A session is closed, and can be counted as one without lead, after so long a silence."""
    signals: SignalPolicy = SignalPolicy()
    samples: SampleSizes = SampleSizes()
    windows: Windows = Windows()
    check_every_h: Annotated[float, Field(gt=0, le=LONGEST_CHECK_H)] = 6.0
    """With the budgets it gives the error rate of one check: budget / checks in 30 days."""
    critical_budget: Annotated[float, Field(gt=0)] = 0.5
    """False critical findings in 30 days that are allowed for; the limit to keep is 1."""
    warning_budget: Annotated[float, Field(gt=0)] = 2.0
    """False warnings in 30 days that are allowed for."""
    reach_se: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Standard errors by which an estimate may miss a threshold and still reach it: a drift of
    exactly a threshold would else be seen every other time only."""
    hysteresis: Hysteresis = Hysteresis()
    sla_critical: Sla = Sla(acknowledge_h=1.0, resolve_h=8.0)
    sla_warning: Sla = Sla(acknowledge_h=24.0, resolve_h=120.0)
    anomaly_z: Annotated[float, Field(gt=0)] = 4.0
    """Robust z-score of an hour, from which it is an anomaly. 3 is once in two weeks by chance
    for one series, 4 once in two years."""
    degradation: Annotated[float, Field(gt=0)] = 0.20
    """Relative worsening of mean, p95, p99 or throughput that is told."""
    alerts: AlertConfig = AlertConfig()

    def alpha(self, *, critical: bool, n_variants: int = 1) -> float:
        """Return the error rate of one check of one variant, at most 0.1."""
        budget = self.critical_budget if critical else self.warning_budget
        checks = 30.0 * 24.0 / self.check_every_h
        return min(0.1, budget / checks / max(1, n_variants))


def read_policy(path: Path | None) -> DriftPolicy:
    """Read a policy from YAML; the defaults without a file.

    Raises:
        BadInput: If the file cannot be read or has a field that does not fit.
    """
    import yaml

    if path is None:
        return DriftPolicy()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"cannot read {str(path)!r}: {error}") from error
    try:
        return DriftPolicy.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BadInput(f"{path}: {where}: {first['msg']}") from error
