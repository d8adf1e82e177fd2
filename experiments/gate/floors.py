"""Absolute limits, on the least favourable end of a confidence bound."""

import math
from collections.abc import Iterator, Mapping, Sequence

from experiments.evaluation.predictions import Prediction
from experiments.gate.bounds import Bounds, quantile_bounds, rate_bounds
from experiments.gate.checks import Check, CheckKind, Outcome
from experiments.gate.metrics import ItemMetric, Polarity
from experiments.gate.policy import GatePolicy, MetricName
from experiments.stats.distributions import norm_isf

_P95 = 0.95


def check_floors(
    predictions: Sequence[Prediction],
    metrics: Mapping[MetricName, ItemMetric],
    policy: GatePolicy,
) -> Iterator[Check]:
    """Judge every limit that the policy sets.

    Each is tested at the full alpha: all of them must hold, so their errors do not add up towards
    a false PASS (intersection-union test).
    """
    limits = policy.floors.model_dump()
    latency_limit = limits.pop("latency_p95_s")
    for name, limit in limits.items():
        if limit is not None:
            yield _rate_floor(predictions, metrics[MetricName(name)], limit, policy)
    if latency_limit is not None:
        yield _latency_floor(predictions, latency_limit, policy)


def _rate_floor(
    predictions: Sequence[Prediction], metric: ItemMetric, limit: float, policy: GatePolicy
) -> Check:
    scored = [
        (score, item.group) for item in predictions if (score := metric.good(item)) is not None
    ]
    if not scored:
        return _unmeasured(metric.name, limit, metric.polarity)
    values, groups = [score for score, _ in scored], [group for _, group in scored]
    counts_events = metric.polarity is Polarity.EVENT
    bounds = rate_bounds(
        values,
        groups,
        alpha=policy.alpha,
        resamples=policy.resamples,
        seed=policy.seed,
        exact=counts_events,
    )
    n_events = sum(value < 1.0 for value in values)
    good_limit = metric.shown(limit)
    outcome = judge_floor(bounds, good_limit)
    if metric.zero_tolerance and n_events:
        outcome = Outcome.FAIL
    needed = None
    if outcome is Outcome.INCONCLUSIVE:
        needed = items_for_floor(bounds.estimate, good_limit, policy)
    shown = Bounds(*map(metric.shown, bounds))
    lower, upper = sorted((shown.lower, shown.upper))
    return Check(
        kind=CheckKind.FLOOR,
        name=metric.name.value,
        outcome=outcome,
        detail=_detail(metric, shown, limit, n_events, len(values), needed),
        n=len(values),
        value=shown.estimate,
        lower=lower,
        upper=upper,
        threshold=limit,
        direction=metric.polarity.value,
        n_needed=needed,
    )


def judge_floor(bounds: Bounds, limit: float) -> Outcome:
    """Judge bounds of a rate of good answers against its least value."""
    if bounds.lower >= limit:
        return Outcome.PASS
    return Outcome.FAIL if bounds.upper < limit else Outcome.INCONCLUSIVE


def items_for_floor(rate: float, limit: float, policy: GatePolicy) -> int | None:
    """Return how many items would tell a rate of good answers from its limit.

    With no bad answer so far the rule of three, ln(alpha) / ln(limit); else the normal sample size
    of one proportion at the policy's power. None where the rate is the limit.
    """
    if rate >= 1.0 > limit:
        return math.ceil(math.log(policy.alpha) / math.log(limit))
    if rate == limit:
        return None
    spread = norm_isf(policy.alpha) * math.sqrt(limit * (1.0 - limit))
    spread += norm_isf(1.0 - policy.power) * math.sqrt(rate * (1.0 - rate))
    return math.ceil((spread / (rate - limit)) ** 2)


def _latency_floor(predictions: Sequence[Prediction], limit_s: float, policy: GatePolicy) -> Check:
    values = [item.latency_s for item in predictions if item.error is None]
    name = "latency_p95_s"
    if not values:
        return _unmeasured(name, limit_s, Polarity.EVENT)
    bounds = quantile_bounds(values, _P95, policy.alpha)
    needed = None
    if bounds.upper <= limit_s:
        outcome = Outcome.PASS
    elif bounds.lower > limit_s:
        outcome = Outcome.FAIL
    else:
        outcome = Outcome.INCONCLUSIVE
        # Below this the largest value is no bound of the p95, whatever it is.
        least = math.ceil(math.log(policy.alpha) / math.log(_P95))
        needed = least if len(values) < least else None
    detail = (
        f"p95 {bounds.estimate:.3g} s, bounds {bounds.lower:.3g} to {bounds.upper:.3g} s, "
        f"limit {limit_s:g} s, n = {len(values)}"
    )
    return Check(
        kind=CheckKind.FLOOR,
        name=name,
        outcome=outcome,
        detail=detail + _more(needed),
        n=len(values),
        value=bounds.estimate,
        lower=bounds.lower,
        upper=bounds.upper,
        threshold=limit_s,
        direction=Polarity.EVENT.value,
        n_needed=needed,
    )


def _unmeasured(name: str, limit: float, polarity: Polarity) -> Check:
    return Check(
        kind=CheckKind.FLOOR,
        name=str(name),
        outcome=Outcome.INCONCLUSIVE,
        detail="no item of the suites measures it; add a suite that does, or set this floor to "
        "null in the policy",
        n=0,
        threshold=limit,
        direction=polarity.value,
    )


def _detail(
    metric: ItemMetric, shown: Bounds, limit: float, n_events: int, n: int, needed: int | None
) -> str:
    if metric.polarity is Polarity.EVENT:
        # `shown` of an event has its ends swapped: the lower good rate is the upper event rate.
        bound = f"{n_events} of {n}, at most {shown.lower:.2%}"
        text = f"{bound}, limit {limit:.2%}"
        if metric.zero_tolerance:
            text += " and none observed"
    else:
        text = f"{shown.estimate:.2%}, at least {shown.lower:.2%}, limit {limit:.2%}, n = {n}"
    return text + _more(needed)


def _more(needed: int | None) -> str:
    return "" if needed is None else f"; about {needed:,} items would decide"
