"""The signals: from two summaries to an effect, its error and its evidence.

Every effect is oriented so that more is worse, in the scale of its thresholds.
"""

import math
from dataclasses import dataclass, field

from experiments.drift.intents import divergence, unseen
from experiments.drift.policy import DriftPolicy, SignalName
from experiments.drift.summary import Summary
from experiments.stats.comparison import Effect
from experiments.stats.distributions import norm_isf, norm_sf
from experiments.stats.effects import EffectEstimate, estimate_effect
from experiments.stats.errors import StatisticsError, ZeroVariance
from experiments.stats.moments import ArmStatistic, ProportionStats
from experiments.stats.proportions import newcombe_interval
from experiments.stats.quantile import QuantileStats
from experiments.stats.ratio import RatioStats

FAMILY = (
    SignalName.CONFIDENCE,
    SignalName.FALLBACK_RATE,
    SignalName.LATENCY_P95,
    SignalName.SATISFACTION,
    SignalName.LEAD_CAPTURE,
    SignalName.INTENTS,
    SignalName.TOKENS,
)
"""The seven that share the error budget by Holm's method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One signal in one window. Without an effect, `refusal` says why."""

    signal: SignalName
    effect: float | None = None
    """More is worse. A share (0.1: 10 % or 10 percentage points), or nats."""
    lower: float | None = None
    """One-sided lower bound of the effect at the error rate of critical findings."""
    standard_error: float | None = None
    p_value: float = 1.0
    """One-sided, against no drift."""
    reference: float | None = None
    current: float | None = None
    n_reference: int = 0
    n_current: int = 0
    method: str = ""
    refusal: str | None = None
    grows: bool = False
    """Whether a longer window may have what is missing."""
    detail: dict[str, object] = field(default_factory=dict)


def measure(
    reference: Summary, current: Summary, policy: DriftPolicy, *, alpha: float
) -> dict[SignalName, Measurement]:
    """Measure every signal.

    Args:
        reference: The baseline.
        current: The window.
        policy: Least samples and scales.
        alpha: One-sided error rate of the bounds.
    """
    found = [
        _confidence(reference, current, policy, alpha),
        _fallback(reference, current, policy, alpha),
        _latency(reference, current, policy, alpha),
        _satisfaction(reference, current, policy, alpha),
        _leads(reference, current, policy, alpha),
        _intents(reference, current, policy, alpha),
        _tokens(reference, current, policy, alpha),
        _unseen(reference, current, policy, alpha),
    ]
    return {item.signal: item for item in found}


def _confidence(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name, least = SignalName.CONFIDENCE, policy.samples.sessions
    short = _short(name, "sessions with a confidence", ref.confidence.n, cur.confidence.n, least)
    if short:
        return short
    return _from_arms(name, ref.confidence, cur.confidence, Effect.RELATIVE, -1.0, alpha)


def _fallback(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name, answers = SignalName.FALLBACK_RATE, int(cur.fallback.denominator_sum)
    reference = int(ref.fallback.denominator_sum)
    least = min(50, policy.samples.sessions)
    short = _short(name, "answers", reference, answers, policy.samples.answers) or _short(
        name, "sessions", ref.fallback.n, cur.fallback.n, least
    )
    if short:
        return short
    return _from_rates(name, ref.fallback, cur.fallback, policy, 1.0, alpha)


def _latency(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name, n = SignalName.LATENCY_P95, cur.n_latencies
    short = _short(name, "timed answers", ref.n_latencies, n, policy.samples.latencies)
    if short:
        return short
    if ref.latency is None or cur.latency is None:
        return Measurement(signal=name, refusal="too few timed answers for a p95", n_current=n)
    try:
        old, new = ref.latency, cur.latency
        spread = math.hypot(_error_of(old) / old.value, _error_of(new) / new.value)
    except (StatisticsError, ZeroDivisionError) as error:
        return Measurement(signal=name, refusal=str(error), n_current=n)
    log_ratio = math.log(new.value / old.value)
    return Measurement(
        signal=name,
        effect=math.expm1(log_ratio),
        lower=math.expm1(log_ratio - norm_isf(alpha) * spread),
        standard_error=math.exp(log_ratio) * spread,
        p_value=_one_sided(log_ratio, spread),
        reference=old.value,
        current=new.value,
        n_reference=ref.n_latencies,
        n_current=n,
        method="log_ratio_p95_outer_interval_sessions",
    )


def _satisfaction(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name, votes = SignalName.SATISFACTION, int(cur.satisfaction.denominator_sum)
    reference = int(ref.satisfaction.denominator_sum)
    what = f"votes on {policy.satisfaction_metric!r}"
    short = _short(name, what, reference, votes, policy.samples.votes)
    if short:
        return short
    return _from_rates(name, ref.satisfaction, cur.satisfaction, policy, -1.0, alpha)


def _leads(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name = SignalName.LEAD_CAPTURE
    short = _short(name, "closed sessions", ref.leads.n, cur.leads.n, policy.samples.sessions)
    if short:
        return short
    if not ref.leads.successes:
        text = f"no session of the baseline has {policy.lead_metric!r}"
        return Measurement(signal=name, refusal=text, n_current=cur.leads.n)
    return _from_rates(name, ref.leads, cur.leads, policy, -1.0, alpha)


def _intents(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name = SignalName.INTENTS
    n_labels = len(ref.intents.weights.keys() | cur.intents.weights.keys())
    least = max(policy.samples.sessions, 10 * n_labels)
    n = cur.intents.n_sessions
    short = _short(name, "sessions", ref.intents.n_sessions, n, least)
    if short:
        return short
    if n_labels < 2:
        text = "answers name no intents, or always the same one"
        return Measurement(signal=name, refusal=text, n_current=n)
    found = divergence(ref.intents, cur.intents)
    limit = policy.signals.intents.warning / 2.0
    if found.noise99 >= limit:
        return Measurement(
            signal=name,
            refusal=f"chance alone gives {found.noise99:.3f} nats with {found.n_categories} "
            f"intents; {limit:g} would do",
            n_current=n,
            grows=True,
        )
    return Measurement(
        signal=name,
        effect=found.kl,
        lower=max(0.0, found.kl - norm_isf(alpha) * found.standard_error),
        standard_error=found.standard_error,
        p_value=found.p_value,
        reference=0.0,
        current=found.kl,
        n_reference=ref.intents.n_sessions,
        n_current=n,
        method="kl_current_reference_nats_jeffreys_g_test",
        detail={
            "kl_raw": found.kl_raw,
            "js_distance": found.js_distance,
            "noise99": found.noise99,
            "contributions": dict(found.contributions),
        },
    )


def _tokens(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name = SignalName.TOKENS
    least = policy.samples.sessions
    short = _short(name, "sessions with token counts", ref.tokens.n, cur.tokens.n, least)
    if short:
        return short
    try:
        found = _estimate(ref.tokens, cur.tokens, Effect.RELATIVE)
    except StatisticsError as error:
        return Measurement(signal=name, refusal=str(error), n_current=cur.tokens.n)
    # Both directions are drift, so each has half of the error rate.
    size, z = abs(found.effect), norm_isf(alpha / 2.0)
    return Measurement(
        signal=name,
        effect=size,
        lower=max(0.0, size - z * found.standard_error),
        standard_error=found.standard_error,
        p_value=min(1.0, 2.0 * _one_sided(size, found.standard_error)),
        reference=found.control,
        current=found.treatment,
        n_reference=found.n_control,
        n_current=found.n_treatment,
        method="relative_delta_sessions_winsorised",
        detail={"direction": "up" if found.effect > 0 else "down"},
    )


def _unseen(ref: Summary, cur: Summary, policy: DriftPolicy, alpha: float) -> Measurement:
    name, n = SignalName.UNSEEN_INTENTS, cur.intents.n_sessions
    short = _short(name, "sessions", ref.intents.n_sessions, n, policy.samples.sessions)
    if short:
        return short
    found = unseen(ref.intents, cur.intents, alpha=alpha)
    spread = found.standard_error
    return Measurement(
        signal=name,
        effect=found.share,
        lower=found.lower,
        standard_error=spread,
        p_value=_one_sided(found.share, spread),
        reference=0.0,
        current=found.share,
        n_reference=ref.intents.n_sessions,
        n_current=n,
        method="wilson_lower_sessions",
        detail={"new_intents": dict(found.labels)},
    )


def _from_arms(
    name: SignalName,
    ref: ArmStatistic,
    cur: ArmStatistic,
    effect: Effect,
    sign: float,
    alpha: float,
) -> Measurement:
    """Compare means or ratios; `sign` is -1 where less is worse."""
    try:
        found = _estimate(ref, cur, effect)
    except StatisticsError as error:
        return Measurement(signal=name, refusal=str(error), n_current=cur.n)
    worse = sign * found.effect
    return Measurement(
        signal=name,
        effect=worse,
        lower=worse - norm_isf(alpha) * found.standard_error,
        standard_error=found.standard_error,
        p_value=_one_sided(worse, found.standard_error),
        reference=found.control,
        current=found.treatment,
        n_reference=found.n_control,
        n_current=found.n_treatment,
        method=f"{effect.value}_delta_sessions",
    )


def _from_rates(
    name: SignalName,
    ref: RatioStats | ProportionStats,
    cur: RatioStats | ProportionStats,
    policy: DriftPolicy,
    sign: float,
    alpha: float,
) -> Measurement:
    """Compare rates by Newcombe's interval on counts that are worth as much as the sessions."""
    if policy.signals.of(name).scale == "relative":
        return _from_arms(name, ref, cur, Effect.RELATIVE, sign, alpha)
    old, new = _effective(ref), _effective(cur)
    worse = sign * (cur.estimate - ref.estimate)
    bounds = newcombe_interval(old, new, alpha=2.0 * alpha)
    low = bounds.lower if sign > 0 else -bounds.upper
    pooled = (old + new).variance * (1.0 / old.n + 1.0 / new.n)
    unpooled = old.variance / old.n + new.variance / new.n
    return Measurement(
        signal=name,
        effect=worse,
        lower=min(low, worse),
        standard_error=math.sqrt(unpooled),
        p_value=_one_sided(worse, math.sqrt(pooled)),
        reference=ref.estimate,
        current=cur.estimate,
        n_reference=ref.n,
        n_current=cur.n,
        method="newcombe_effective_sessions",
    )


def _estimate(ref: ArmStatistic, cur: ArmStatistic, effect: Effect) -> EffectEstimate:
    """Estimate an effect; one between two constants is certain, and not undefined."""
    try:
        return estimate_effect(ref, cur, effect)
    except ZeroVariance:
        old, new = ref.estimate, cur.estimate
        base = abs(old) if effect is Effect.RELATIVE else 1.0
        if base == 0:
            raise
        return EffectEstimate((new - old) / base, 0.0, math.inf, ref.n, cur.n, old, new)


def _error_of(arm: QuantileStats) -> float:
    """Return the standard error of a quantile; 0 where all around it is the same number."""
    try:
        return math.sqrt(arm.variance / arm.n)
    except ZeroVariance:
        return 0.0


def _one_sided(worse: float, standard_error: float) -> float:
    """Return the p-value of "not worse"."""
    if standard_error <= 0:
        return 0.0 if worse > 0 else 1.0
    return norm_sf(worse / standard_error)


def _effective(arm: RatioStats | ProportionStats) -> ProportionStats:
    """Return independent counts with the variance that clustered ones have (design effect)."""
    if isinstance(arm, ProportionStats):
        return arm
    rate = min(1.0, max(0.0, arm.estimate))
    binomial = rate * (1.0 - rate)
    clustered = arm.variance / arm.n if arm.n > 1 else 0.0
    # Everybody alike: nothing tells how alike sessions are inside, so each counts once.
    n = arm.n if binomial <= 0 or clustered <= 0 else max(1, round(binomial / clustered))
    return ProportionStats(n=n, successes=round(rate * n))


def _short(
    signal: SignalName, what: str, n_reference: int, n_current: int, least: int
) -> Measurement | None:
    """Return the refusal if one of the samples is too small."""
    if n_reference < least:
        text = f"the baseline has {n_reference} {what}; {least} are needed"
        return Measurement(signal=signal, refusal=text, n_current=n_current)
    if n_current < least:
        text = f"{n_current} {what} in the window; {least} are needed"
        return Measurement(signal=signal, refusal=text, n_current=n_current, grows=True)
    return None
