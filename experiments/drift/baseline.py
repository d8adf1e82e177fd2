"""The baseline file: the reference that live traffic is compared with, frozen and hashed."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.drift.errors import BadInput
from experiments.drift.observations import Observations
from experiments.drift.performance import Performance, Rhythm, describe, rhythms
from experiments.drift.policy import DriftPolicy, SignalName
from experiments.drift.summary import Summary, summarise
from experiments.stats.moments import ProportionStats
from experiments.stats.ratio import RatioStats
from experiments.whole_file import write_whole

SCHEMA_VERSION = 1
_DAY_S = 86_400.0


class Definitions(BaseModel):
    """What was counted as what; a check has to count in the same way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fallback_intents: tuple[str, ...]
    satisfaction_metric: str
    lead_metric: str
    session_idle_h: float

    @classmethod
    def of(cls, policy: DriftPolicy) -> "Definitions":
        """Return the definitions of a policy."""
        return cls(
            fallback_intents=tuple(sorted(policy.fallback_intents)),
            satisfaction_metric=policy.satisfaction_metric,
            lead_metric=policy.lead_metric,
            session_idle_h=policy.session_idle_h,
        )


class Reference(BaseModel):
    """One variant in the reference period."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...]
    """SHA-256 of the weights that answered."""
    summary: Summary
    performance: Performance
    rhythms: dict[str, Rhythm]


class Baseline(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    created_at: datetime
    since: datetime
    until: datetime
    provisional: bool
    """Shorter or smaller than the policy asks for; made with --allow-short."""
    definitions: Definitions
    variants: dict[str, Reference]
    sha256: str = ""
    """Over everything else in the file."""

    def sealed(self) -> "Baseline":
        """Return the baseline with its hash."""
        return self.model_copy(update={"sha256": self.content_sha256()})

    def content_sha256(self) -> str:
        """Return the hash of everything but the hash."""
        document = self.model_dump(mode="json", exclude={"sha256"})
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def make_baseline(
    seen: Mapping[str, Observations],
    policy: DriftPolicy,
    *,
    since: float,
    until: float,
    now: datetime,
) -> Baseline:
    """Freeze a period.

    Args:
        seen: Traffic per variant.
        policy: Definitions and least samples.
        since: Start of the period, seconds since the epoch.
        until: Its end.
        now: Time of creation.
    """
    variants = {
        name: Reference(
            models=found.models,
            summary=summarise(
                found, since=since, until=until, fallback_intents=policy.fallback_intents
            ),
            performance=describe(found, since=since, until=until),
            rhythms=rhythms(found, since=since, until=until),
        )
        for name, found in sorted(seen.items())
    }
    return Baseline(
        created_at=now,
        since=datetime.fromtimestamp(since, UTC),
        until=datetime.fromtimestamp(until, UTC),
        provisional=bool(shortfalls(variants, policy, since=since, until=until)),
        definitions=Definitions.of(policy),
        variants=variants,
    ).sealed()


def too_small(variants: Mapping[str, Reference], policy: DriftPolicy) -> list[str]:
    """Return the variants with too few sessions for a reference."""
    least = policy.samples.reference_sessions
    return [name for name, found in variants.items() if found.summary.n_sessions < least]


def shortfalls(
    variants: Mapping[str, Reference], policy: DriftPolicy, *, since: float, until: float
) -> list[str]:
    """Say what is missing for a reference that can be relied on."""
    # To a tenth: the first request of a week comes some minutes after its beginning.
    days, least = round((until - since) / _DAY_S, 1), policy.samples
    found = []
    if days < least.reference_days:
        found.append(f"{days:.1f} days of traffic; {least.reference_days:g} are needed")
    for name in too_small(variants, policy):
        n = variants[name].summary.n_sessions
        found.append(f"variant {name!r} has {n} sessions; {least.reference_sessions} are needed")
    return found


def lint(baseline: Baseline, policy: DriftPolicy) -> list[str]:
    """Return thresholds that can never be reached from this reference."""
    found = []
    for name, reference in baseline.variants.items():
        rates: dict[SignalName, RatioStats | ProportionStats] = {
            SignalName.SATISFACTION: reference.summary.satisfaction,
            SignalName.LEAD_CAPTURE: reference.summary.leads,
        }
        for signal, arm in rates.items():
            limits = policy.signals.of(signal)
            if not arm.n or limits.scale == "relative":
                continue
            rate = arm.estimate
            if rate < limits.critical:
                found.append(
                    f"{name}: {signal.value} is {rate:.1%} in the baseline and cannot fall by "
                    f"{limits.critical * 100:g} points; set signals.{signal.value}.scale: relative"
                )
    return found


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write the file, whole or not at all.

    Raises:
        BadInput: If it cannot be written.
    """
    write_text(path, baseline.model_dump_json(indent=2) + "\n")


def read_baseline(path: Path) -> Baseline:
    """Read the file.

    Raises:
        BadInput: If it is missing, damaged, altered, or written by a newer version.
    """
    try:
        raw: dict[str, Any] = json.loads(path.read_bytes())
        version = raw.get("schema_version")
    except FileNotFoundError:
        raise BadInput(f"no baseline at {str(path)!r}", "make one: carril drift baseline") from None
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{str(path)!r} is no baseline: {error}") from error
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BadInput(
            f"{path} has schema version {version}; this build reads up to {SCHEMA_VERSION}"
        )
    try:
        baseline = Baseline.model_validate(raw)
    except (ValidationError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise BadInput(f"{str(path)!r} is no baseline: {text}") from error
    if baseline.sha256 != baseline.content_sha256():
        raise BadInput(f"{path} was altered: its hash does not match", "make it again")
    return baseline


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        BadInput: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be written: {error.strerror}") from error
