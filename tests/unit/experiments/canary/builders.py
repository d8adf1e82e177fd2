"""Plans, states and observations for tests."""

import dataclasses
from typing import Any

from experiments.analysis.declaration import CanaryDeclaration
from experiments.canary.records import (
    Look,
    Observation,
    Plan,
    Recent,
    Served,
    State,
    Status,
)
from experiments.decision.evidence import Health, MetricEvidence, MetricRole
from experiments.stats.comparison import Effect
from experiments.stats.noninferiority import Direction

NOW = 1_763_000_000.0
OURS = Served(percent=5.0, config_hash="a" * 12, file_sha256="f" * 64)


def plan(**declared: Any) -> Plan:
    return Plan.of(CanaryDeclaration.model_validate(declared), srm_alpha=0.01, max_multi=0.01)


def state(**changes: Any) -> State:
    base = State(
        experiment="exp",
        version=1,
        control="stable",
        treatment="candidate",
        plan=plan(),
        status=Status.RAMPING,
        step=1,
        step_at=NOW - 1000,
        served=OURS,
    )
    return dataclasses.replace(base, **changes)


def guardrail(low: float, high: float, **changes: Any) -> MetricEvidence:
    """Return the evidence of `errors` with margin 0.02."""
    base = MetricEvidence(
        name="errors",
        role=MetricRole.GUARDRAIL,
        direction=Direction.DECREASE,
        effect_kind=Effect.ABSOLUTE,
        effect=(low + high) / 2,
        ci_lower=low,
        ci_upper=high,
        always_valid=True,
        margin=0.02,
    )
    return dataclasses.replace(base, **changes)


def health(**changes: Any) -> Health:
    base = Health(
        n_control=1900,
        n_treatment=100,
        srm_chi2_p=1.0,
        srm_sequential_p=1.0,
        multi_exposed_units=0,
        missing_control=0,
        missing_treatment=0,
        missing_p=1.0,
        conflicts=(),
    )
    return dataclasses.replace(base, **changes)


def look(*guardrails: MetricEvidence, **changes: Any) -> Look:
    base = Look(
        n_control=1900,
        n_treatment=100,
        guardrails=guardrails or (guardrail(-0.01, 0.01),),
        health=health(),
    )
    return dataclasses.replace(base, **changes)


def seen(**changes: Any) -> Observation:
    base = Observation(at=NOW, active_config=OURS.config_hash, file=OURS, look=look())
    return dataclasses.replace(base, **changes)


def failing(answers: int = 10, errors: int = 10, sessions: int = 10) -> Recent:
    return Recent(
        answers=answers,
        errors=errors,
        error_sessions=sessions,
        first_error_at=NOW - 3,
        codes=("engine_failed",),
    )
