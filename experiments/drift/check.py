"""One check: baseline, traffic and what is remembered in, a report and a new memory out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from experiments.drift.baseline import Baseline, Reference
from experiments.drift.hysteresis import Active, Change, advance
from experiments.drift.levels import Judgement, Level, Windowed, judge, worst
from experiments.drift.observations import Observations
from experiments.drift.performance import (
    Anomaly,
    Degradation,
    Performance,
    anomalies,
    degradations,
    describe,
)
from experiments.drift.policy import DriftPolicy, SignalName
from experiments.drift.signals import Measurement, measure
from experiments.drift.summary import Summary, summarise

_HOUR_S = 3600.0

Load = Callable[[float, float], Mapping[str, Observations]]
"""Reads the traffic of a period, per variant."""


class Memory(BaseModel):
    """Findings that have not ended, per variant and signal. Belongs to one baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline_sha256: str
    active: dict[str, dict[SignalName, Active]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReport:
    """A signal after this check."""

    level: Level
    """With the memory of earlier checks: a finding stays until it is over."""
    judgement: Judgement
    active: Active | None
    change: Change | None
    ended: Level | None = None
    """Level of the finding that is over now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """One variant."""

    variant: str
    level: Level
    signals: tuple[SignalReport, ...]
    other_models: tuple[str, ...]
    """Weights that answered now and are not in the baseline."""
    performance: Performance
    degradations: tuple[Degradation, ...]
    anomalies: tuple[Anomaly, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found, and what has to be remembered."""

    level: Level
    checked_at: float
    variants: tuple[VariantReport, ...]
    memory: Memory
    notes: tuple[str, ...]


class _Traffic:
    """The traffic before a moment, read as far back as it is asked for."""

    def __init__(self, load: Load, now: float) -> None:
        self._load, self._now = load, now
        self._hours, self._seen = 0.0, dict[str, Observations]()

    def of(self, variant: str, hours: float) -> Observations | None:
        """Return the last hours of a variant; None if it had none."""
        since = self._now - hours * _HOUR_S
        if hours > self._hours:
            self._seen = dict(self._load(since, self._now))
            self._hours = hours
        seen = self._seen.get(variant)
        return None if seen is None else seen.window(since, self._now)

    def names(self) -> set[str]:
        """Return the variants read so far."""
        return set(self._seen)


def check(
    baseline: Baseline, load: Load, memory: Memory | None, policy: DriftPolicy, *, now: float
) -> CheckResult:
    """Check every variant of the baseline.

    Args:
        baseline: The reference.
        load: Reads traffic.
        memory: Of the check before; one of another baseline is forgotten.
        policy: Thresholds, windows and budgets.
        now: End of the windows, seconds since the epoch.
    """
    if memory is None or memory.baseline_sha256 != baseline.sha256:
        memory = Memory(baseline_sha256=baseline.sha256)
    traffic = _Traffic(load, now)
    reports = []
    for name, reference in baseline.variants.items():
        before = memory.active.get(name, {})
        reports.append(
            _check_variant(name, reference, traffic, before, policy, now, len(baseline.variants))
        )
    active = {
        report.variant: {
            item.judgement.signal: item.active for item in report.signals if item.active is not None
        }
        for report in reports
    }
    strangers = sorted(traffic.names() - baseline.variants.keys())
    return CheckResult(
        level=worst([report.level for report in reports]),
        checked_at=now,
        variants=tuple(reports),
        memory=Memory(
            baseline_sha256=baseline.sha256,
            active={name: found for name, found in active.items() if found},
        ),
        notes=tuple(f"variant {name!r} is not in the baseline" for name in strangers),
    )


def _check_variant(
    name: str,
    reference: Reference,
    traffic: _Traffic,
    before: Mapping[SignalName, Active],
    policy: DriftPolicy,
    now: float,
    n_variants: int,
) -> VariantReport:
    alpha = policy.alpha(critical=True, n_variants=n_variants)
    fast, slow = _measured(name, reference, traffic, policy, now, alpha)
    signals = []
    for found in judge(fast, slow, policy, n_variants=n_variants):
        earlier = before.get(found.signal)
        step = advance(earlier, found, policy, now=now)
        signals.append(
            SignalReport(
                level=found.level if step.active is None else step.active.level,
                judgement=found,
                active=step.active,
                change=step.change,
                ended=earlier.level if earlier is not None and step.active is None else None,
            )
        )
    since = now - policy.windows.slow_h * _HOUR_S
    seen = traffic.of(name, policy.windows.slow_h) or empty()
    performance = describe(seen, since=since, until=now)
    other = tuple(sorted(set(seen.models) - set(reference.models)))
    return VariantReport(
        variant=name,
        level=worst([item.level for item in signals]),
        signals=tuple(signals),
        other_models=other,
        performance=performance,
        degradations=tuple(degradations(reference.performance, performance, policy.degradation)),
        anomalies=tuple(
            anomalies(reference.rhythms, seen, since=since, until=now, z=policy.anomaly_z)
        ),
        notes=tuple(_notes(reference, seen, other, since, now)),
    )


def _measured(
    name: str,
    reference: Reference,
    traffic: _Traffic,
    policy: DriftPolicy,
    now: float,
    alpha: float,
) -> tuple[dict[SignalName, Windowed], dict[SignalName, Windowed]]:
    """Measure every signal in the shortest windows that have enough of what it needs."""
    done: dict[float, dict[SignalName, Measurement]] = {}

    def at(hours: float) -> dict[SignalName, Measurement]:
        if hours not in done:
            seen = traffic.of(name, hours) or empty()
            summary = _summary(reference.summary, seen, policy, now - hours * _HOUR_S, now)
            done[hours] = measure(reference.summary, summary, policy, alpha=alpha)
        return done[hours]

    def shortest(signal: SignalName, sizes: list[float]) -> Windowed:
        for hours in sizes:
            found = at(hours)[signal]
            if found.refusal is None or not found.grows:
                break
        return Windowed(hours=hours, found=found)

    slow_sizes = _sizes(policy.windows.slow_h, policy.windows.max_h)
    fast_sizes = _sizes(policy.windows.fast_h, policy.windows.max_h)
    slow = {signal: shortest(signal, slow_sizes) for signal in SignalName}
    fast = {signal: shortest(signal, fast_sizes) for signal in SignalName}
    return fast, slow


def _sizes(first: float, last: float) -> list[float]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(last, sizes[-1] * 2.0))
    return sizes


def _summary(
    reference: Summary, seen: Observations, policy: DriftPolicy, since: float, until: float
) -> Summary:
    return summarise(
        seen,
        since=since,
        until=until,
        fallback_intents=policy.fallback_intents,
        token_cap=reference.token_cap,
    )


def _notes(
    reference: Reference, seen: Observations, other: tuple[str, ...], since: float, now: float
) -> list[str]:
    """Say what the signals cannot: another model, and telemetry that went silent."""
    notes = []
    if other:
        shown = ", ".join(sha[:12] for sha in other)
        notes.append(f"answered by weights that the baseline does not know: {shown}")
    old, hours = reference.summary, (now - since) / _HOUR_S
    per_hour = (old.until - old.since) / _HOUR_S
    silent = {
        "confidence": (old.confidence.n, bool((seen.answers.confidence >= 0).any())),
        "votes": (old.satisfaction.n, bool(seen.votes.at.size)),
        "leads": (old.leads.successes, bool(seen.closed.lead.any())),
        "requests": (old.n_answers, bool(seen.answers.at.size)),
    }
    for what, (n, some) in silent.items():
        expected = n * hours / per_hour if per_hour > 0 else 0.0
        if expected >= _EXPECTED_AT_LEAST and not some:
            notes.append(
                f"no {what} in {hours:g} h, where the baseline had about {expected:.0f}: "
                "is it still recorded?"
            )
    return notes


_EXPECTED_AT_LEAST = 20.0
"""None where so many were usual is no accident: Poisson gives 2e-9."""


def empty() -> Observations:
    """Return no traffic."""
    import numpy as np

    from experiments.drift.observations import Answers, Closed, Votes

    none, codes = np.array([]), np.array([], dtype=np.int64)
    return Observations(
        intents=(),
        models=(),
        answers=Answers(
            at=none,
            session=codes,
            intent=codes,
            confidence=none,
            latency_s=none,
            tokens=none,
            failed=np.array([], dtype=bool),
        ),
        votes=Votes(at=none, session=codes, good=none),
        closed=Closed(at=none, lead=none),
    )
