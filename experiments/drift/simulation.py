"""The proof of the detector: false alarms on A/A traffic, and every drift found at its threshold.

Everything runs through `check`, the code of `carril drift check`, on a schedule, with its memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from experiments.drift.baseline import Baseline, make_baseline
from experiments.drift.check import CheckResult, Memory, check
from experiments.drift.hysteresis import Change as Step
from experiments.drift.levels import Level
from experiments.drift.observations import Observations
from experiments.drift.policy import DriftPolicy, SignalName
from experiments.drift.traffic_model import (
    FALLBACK,
    NEW_CODE,
    Change,
    Trace,
    dissatisfy,
    lengthen,
    lose_leads,
    make_trace,
    move_intents,
    replay,
    scale_confidence,
    slow_down,
    stop_understanding,
)

_DAY_S = 86_400.0
_REFERENCE_DAYS = 14.0
_START = 1_760_000_000.0 - 1_760_000_000.0 % _DAY_S
_VARIANT = "stable"
_RARE_INTENT = 11
SCENARIO_DAYS = 7.0
"""How long an injected drift lasts; it has to be found in that time."""
_NEW_SHARE = 0.10
_POLICY = DriftPolicy(fallback_intents=frozenset({FALLBACK}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated."""

    runs: int = 20
    days: float = 30.0
    sessions_per_day: int = 1000
    seed: int = 42
    policy: DriftPolicy = _POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """A/A: nothing drifts, so everything found is false."""

    runs: int
    days: float
    checks: int
    critical: int
    """Findings that became critical, all runs together."""
    critical_per_30_days: float
    most_in_a_run: int
    warnings: int
    warnings_per_30_days: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A drift of exactly the critical threshold, from one moment on."""

    scenario: str
    signal: SignalName
    injected: float
    runs: int
    found: int
    """Runs with a warning or more."""
    critical: int
    """Runs with a critical finding."""
    hours_to_warning: float | None
    """Median from the onset, over the runs that found it."""
    hours_to_critical: float | None
    slowest_hours: float | None
    """To a critical finding, in the slowest run."""
    largest_effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Everything."""

    false_alarms: FalseAlarms
    detections: tuple[Detection, ...]
    new_intent: Detection
    new_intent_kl_finite: bool

    @property
    def holds(self) -> bool:
        """At most one false critical in 30 days, each of the seven found, KL survives the new."""
        return (
            self.false_alarms.critical_per_30_days <= 1.0
            and all(found.critical == found.runs for found in self.detections)
            and self.new_intent.found == self.new_intent.runs
            and self.new_intent_kl_finite
        )


def with_made_up_intents(policy: DriftPolicy) -> DriftPolicy:
    """Return a policy that knows which made-up intent means "not understood"."""
    return policy.model_copy(update={"fallback_intents": frozenset({FALLBACK})})


def prove(plan: Plan, say: Callable[[str], None] = lambda _: None) -> Proof:
    """Run the whole simulation.

    Args:
        plan: Sizes and seed.
        say: Told what is going on.
    """
    trace = make_trace(np.random.default_rng(plan.seed), sessions=20_000)
    say(f"A/A: {plan.runs} runs of {plan.days:g} days")
    alarms = false_alarms(plan, trace)
    detections = []
    for signal, (change, size) in injections(plan.policy, trace).items():
        say(f"{signal.value}: {size:g} injected")
        detections.append(detect(plan, trace, signal.value, signal, change, size)[0])
    say("a brand-new intent")
    new_change = move_intents(_NEW_SHARE, to=NEW_CODE)
    new, finite = detect(
        plan, trace, "new intent", SignalName.UNSEEN_INTENTS, new_change, _NEW_SHARE
    )
    return Proof(
        false_alarms=alarms,
        detections=tuple(detections),
        new_intent=new,
        new_intent_kl_finite=finite,
    )


def injections(policy: DriftPolicy, trace: Trace) -> dict[SignalName, tuple[Change, float]]:
    """Return for each of the seven signals a drift of exactly its critical threshold."""
    at = {name: policy.signals.of(name).critical for name in SignalName}
    tilt = _tilt(trace, at[SignalName.INTENTS])
    changes = {
        SignalName.CONFIDENCE: scale_confidence(at[SignalName.CONFIDENCE]),
        SignalName.FALLBACK_RATE: stop_understanding(at[SignalName.FALLBACK_RATE]),
        SignalName.LATENCY_P95: slow_down(at[SignalName.LATENCY_P95]),
        SignalName.SATISFACTION: dissatisfy(at[SignalName.SATISFACTION]),
        SignalName.LEAD_CAPTURE: lose_leads(at[SignalName.LEAD_CAPTURE]),
        SignalName.INTENTS: move_intents(tilt, to=_RARE_INTENT),
        SignalName.TOKENS: lengthen(at[SignalName.TOKENS]),
    }
    return {name: (change, at[name]) for name, change in changes.items()}


def false_alarms(plan: Plan, trace: Trace) -> FalseAlarms:
    """Count what is found where nothing is."""
    critical, warnings, checks = [], 0, 0
    for run in range(plan.runs):
        found = 0
        for result in _checks(plan, trace, run, plan.days, None):
            checks += 1
            opened = _news(result)
            found += sum(level is Level.CRITICAL for level in opened)
            warnings += sum(level is Level.WARNING for level in opened)
        critical.append(found)
    months = plan.runs * plan.days / 30.0
    return FalseAlarms(
        runs=plan.runs,
        days=plan.days,
        checks=checks,
        critical=sum(critical),
        critical_per_30_days=sum(critical) / months,
        most_in_a_run=max(critical),
        warnings=warnings,
        warnings_per_30_days=warnings / months,
    )


def detect(
    plan: Plan, trace: Trace, scenario: str, signal: SignalName, change: Change, size: float
) -> tuple[Detection, bool]:
    """Inject a drift and see when its signal finds it; also whether KL stayed finite."""
    to_warning, to_critical, largest, finite = list[float](), list[float](), 0.0, True
    for run in range(plan.runs):
        first: dict[Level, float] = {}
        for n, result in enumerate(_checks(plan, trace, run, SCENARIO_DAYS, change), start=1):
            items = {s.judgement.signal: s for s in result.variants[0].signals}
            effect = items[signal].judgement.slow.found.effect or 0.0
            largest = max(largest, effect)
            kl = items[SignalName.INTENTS].judgement.slow.found.effect
            finite = finite and kl is not None and math.isfinite(kl)
            hours = n * plan.policy.check_every_h
            for level in (Level.WARNING, Level.CRITICAL):
                if items[signal].level.rank >= level.rank:
                    first.setdefault(level, hours)
        to_warning += [first[Level.WARNING]] if Level.WARNING in first else []
        to_critical += [first[Level.CRITICAL]] if Level.CRITICAL in first else []
    found = Detection(
        scenario=scenario,
        signal=signal,
        injected=size,
        runs=plan.runs,
        found=len(to_warning),
        critical=len(to_critical),
        hours_to_warning=float(np.median(to_warning)) if to_warning else None,
        hours_to_critical=float(np.median(to_critical)) if to_critical else None,
        slowest_hours=max(to_critical, default=None),
        largest_effect=largest,
    )
    return found, finite


def _checks(
    plan: Plan, trace: Trace, run: int, days: float, change: Change | None
) -> Iterator[CheckResult]:
    """Yield the checks of one run, one every period: reference, then days of traffic."""
    rng = np.random.default_rng([plan.seed, run])
    onset = _START + _REFERENCE_DAYS * _DAY_S
    before = replay(
        trace,
        rng,
        since=_START,
        days=_REFERENCE_DAYS,
        sessions_per_day=plan.sessions_per_day,
    )
    baseline = _baseline(before, plan.policy, onset)
    after = replay(
        trace, rng, since=onset, days=days, sessions_per_day=plan.sessions_per_day, change=change
    )
    period_s = plan.policy.check_every_h * 3600.0
    memory: Memory | None = None
    for n in range(1, int(days * _DAY_S / period_s) + 1):
        now = onset + n * period_s
        result = check(
            baseline,
            lambda since, until: {_VARIANT: _joined(before, after, onset, since, until)},
            memory,
            plan.policy,
            now=now,
        )
        memory = result.memory
        yield result


def _baseline(seen: Observations, policy: DriftPolicy, until: float) -> Baseline:
    made_at = datetime.fromtimestamp(until, UTC)
    return make_baseline({_VARIANT: seen}, policy, since=_START, until=until, now=made_at)


def _joined(
    before: Observations, after: Observations, onset: float, since: float, until: float
) -> Observations:
    """Return a window that may begin before the drift: it is diluted then, as in life."""
    if since >= onset:
        return after.window(since, until)
    return before.window(since, onset).followed_by(after.window(onset, until))


def _news(result: CheckResult) -> list[Level]:
    return [
        item.level
        for item in result.variants[0].signals
        if item.change in (Step.OPENED, Step.ESCALATED)
    ]


def _tilt(trace: Trace, wanted: float) -> float:
    """Return the share of answers to move to the rare intent for a KL of `wanted`, by bisection."""
    counts = np.bincount(trace.intent[~trace.failed], minlength=_RARE_INTENT + 2)
    q = counts / counts.sum()
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2.0
        p = (1.0 - share) * q
        p[_RARE_INTENT] += share
        used = p > 0
        kl = float((p[used] * np.log(p[used] / q[used])).sum())
        low, high = (share, high) if kl < wanted else (low, share)
    return high
