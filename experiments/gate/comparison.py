"""Candidate against champion, on the same items."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.evaluation.predictions import Prediction
from experiments.gate.bounds import (
    Bounds,
    adjusted_wald,
    bootstrap_means,
    cluster,
    mcnemar_exact,
    percentile_bounds,
)
from experiments.gate.checks import Check, CheckKind, Outcome
from experiments.gate.metrics import ItemMetric
from experiments.gate.policy import GatePolicy, MetricName
from experiments.stats.distributions import norm_isf
from experiments.stats.multiplicity import holm
from experiments.stats.noninferiority import GuardrailState, judge

Pair = tuple[Prediction, Prediction]
"""The candidate's and the champion's answer to one item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedResult:
    """A metric on the items that both models were asked; a positive difference is good."""

    n: int
    n_groups: int
    better: int
    worse: int
    candidate: float
    champion: float
    difference: Bounds
    """The wider of the cluster bootstrap and the adjusted Wald bounds."""
    p_better: float
    """One-sided, H0: not better. The larger of McNemar's exact and the bootstrap's."""
    p_worse: float
    """One-sided, H0: not worse; in the same way."""
    standard_error: float
    """Of the difference, from the wider of the two bounds."""


def compare(pairs: Sequence[Pair], metric: ItemMetric, policy: GatePolicy) -> PairedResult | None:
    """Compare two models on one metric.

    Two methods that fail in different places, and the more cautious of them counts: McNemar's exact
    test takes items as independent and is right for few disagreements; the bootstrap of the paired
    difference by conversation is right when items of one conversation go wrong together. An answer
    that cannot be judged counts as a bad one if the other model's could be, so that a model gains
    nothing by breaking its answers.

    Args:
        pairs: Answers to the same items.
        metric: What to compare; items to which it does not apply are left out.
        policy: alpha, resamples, seed.

    Returns:
        None where no item measures the metric.
    """
    scored = [
        (mine, other, ours.group)
        for ours, theirs in pairs
        for mine, other in [(metric.good(ours), metric.good(theirs))]
        if mine is not None or other is not None
    ]
    if not scored:
        return None
    ours = np.array([mine or 0.0 for mine, _, _ in scored])
    theirs = np.array([other or 0.0 for _, other, _ in scored])
    gain = ours - theirs
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    sample = cluster(gain.tolist(), [group for _, _, group in scored])
    estimate = float(gain.mean())
    means = bootstrap_means(sample, resamples=policy.resamples, seed=policy.seed)
    resampled = percentile_bounds(means, estimate, policy.alpha)
    wald = adjusted_wald(better, worse, len(gain), policy.alpha)
    lower, upper = min(resampled.lower, wald.lower), max(resampled.upper, wald.upper)
    # Davison and Hinkley's (k + 1) / (R + 1): a finite bootstrap never shows certainty.
    p_up = (1 + int(np.searchsorted(means, 0.0, side="right"))) / (len(means) + 1)
    p_down = (1 + len(means) - int(np.searchsorted(means, 0.0, side="left"))) / (len(means) + 1)
    return PairedResult(
        n=len(gain),
        n_groups=sample.n,
        better=better,
        worse=worse,
        candidate=float(ours.mean()),
        champion=float(theirs.mean()),
        difference=Bounds(estimate, lower, upper),
        p_better=max(mcnemar_exact(better, worse), p_up),
        p_worse=max(mcnemar_exact(worse, better), p_down),
        standard_error=(upper - lower) / (2.0 * norm_isf(policy.alpha)),
    )


def items_for_difference(result: PairedResult, distance: float, policy: GatePolicy) -> int | None:
    """Return how many items would show a difference that lies `distance` from the limit.

    n (z_alpha + z_beta)^2 se^2 / distance^2 with the standard error seen, which has the share of
    disagreements and the clustering in it. None where the distance is not above 0.
    """
    if distance <= 0:
        return None
    z = norm_isf(policy.alpha) + norm_isf(1.0 - policy.power)
    return math.ceil(result.n * (z * result.standard_error / distance) ** 2)


def check_superiority(
    pairs: Sequence[Pair], metrics: Mapping[MetricName, ItemMetric], policy: GatePolicy
) -> Iterator[Check]:
    """Test each primary metric for an improvement, under Holm.

    PASS: better, at the family's alpha. FAIL: an improvement of `minimum_effect` is excluded.
    INCONCLUSIVE: neither, with the size that would show an improvement of that effect.
    """
    results = {name: compare(pairs, metrics[name], policy) for name in policy.primary}
    measured = {name: result for name, result in results.items() if result is not None}
    adjusted = dict(
        zip(measured, holm([result.p_better for result in measured.values()]), strict=True)
    )
    for name, result in results.items():
        metric = metrics[name]
        if result is None:
            yield _unmeasured(CheckKind.PRIMARY, metric)
            continue
        few = _too_few_groups(result, policy)
        needed = None
        if few is not None:
            outcome, needed = Outcome.INCONCLUSIVE, None
        elif adjusted[name] <= policy.alpha and result.difference.lower > 0:
            outcome = Outcome.PASS
        elif result.difference.upper < policy.minimum_effect:
            outcome = Outcome.FAIL
        else:
            outcome = Outcome.INCONCLUSIVE
            # More items help only if there is an improvement: plan for the smallest that counts.
            needed = items_for_difference(result, policy.minimum_effect, policy)
            if needed is not None and needed <= result.n:
                needed = items_for_difference(result, abs(result.difference.estimate), policy)
        aim = f"an improvement of {policy.minimum_effect * 100:g} points is what counts"
        yield _paired_check(
            CheckKind.PRIMARY,
            metric,
            result,
            outcome,
            aim if few is None else few,
            threshold=0.0,
            p_value=result.p_better,
            p_adjusted=adjusted[name],
            needed=needed,
        )


def check_margins(
    pairs: Sequence[Pair], metrics: Mapping[MetricName, ItemMetric], policy: GatePolicy
) -> Iterator[Check]:
    """Test that no protected metric is worse than the champion's by more than its margin.

    Not part of Holm's family: every one must hold (intersection-union test). Where a single event
    fails the candidate anyway, a candidate without one is not worse on these items, and the few
    items of such suites could never show a margin of a point.
    """
    for field, margin in policy.margins.model_dump().items():
        if margin is None:
            continue
        metric = metrics[MetricName(field)]
        result = compare(pairs, metric, policy)
        if result is None:
            if _wanted(metric.name, policy):
                yield _unmeasured(CheckKind.MARGIN, metric)
            continue
        few = _too_few_groups(result, policy)
        needed = None
        if metric.zero_tolerance and result.candidate == 1.0:
            outcome = Outcome.PASS
        elif few is not None:
            outcome = Outcome.INCONCLUSIVE
        else:
            outcome = _STATES[judge(result.difference.lower, result.difference.upper, margin)]
            if outcome is Outcome.INCONCLUSIVE:
                distance = abs(result.difference.estimate + margin)
                needed = items_for_difference(result, distance, policy)
        note = f"margin {margin * 100:g} points"
        yield _paired_check(
            CheckKind.MARGIN,
            metric,
            result,
            outcome,
            note if few is None or outcome is Outcome.PASS else few,
            threshold=-margin,
            p_value=None,
            p_adjusted=None,
            needed=needed,
        )


_STATES = {
    GuardrailState.PASSED: Outcome.PASS,
    GuardrailState.BREACHED: Outcome.FAIL,
    GuardrailState.OPEN: Outcome.INCONCLUSIVE,
}


def _wanted(name: MetricName, policy: GatePolicy) -> bool:
    """Whether a floor of the same name says that the suites have to measure it."""
    return getattr(policy.floors, name.value, None) is not None


def _too_few_groups(result: PairedResult, policy: GatePolicy) -> str | None:
    if result.n_groups >= policy.min_groups:
        return None
    return f"{result.n_groups} groups, a comparison needs {policy.min_groups}"


def _unmeasured(kind: CheckKind, metric: ItemMetric) -> Check:
    return Check(
        kind=kind,
        name=metric.name.value,
        outcome=Outcome.INCONCLUSIVE,
        detail="no item of the suites measures it; add a suite that does",
        n=0,
    )


def _paired_check(
    kind: CheckKind,
    metric: ItemMetric,
    result: PairedResult,
    outcome: Outcome,
    note: str,
    *,
    threshold: float,
    p_value: float | None,
    p_adjusted: float | None,
    needed: int | None,
) -> Check:
    difference = result.difference
    detail = (
        f"{difference.estimate * 100:+.2f} points in the good direction, bounds "
        f"{difference.lower * 100:+.2f} to {difference.upper * 100:+.2f}; {result.better} items "
        f"better, {result.worse} worse of {result.n}; {note}"
    )
    if needed is not None:
        detail += f"; about {needed:,} items would decide"
    return Check(
        kind=kind,
        name=metric.name.value,
        outcome=outcome,
        detail=detail,
        n=result.n,
        value=metric.shown(result.candidate),
        champion=metric.shown(result.champion),
        lower=difference.lower,
        upper=difference.upper,
        threshold=threshold,
        better=result.better,
        worse=result.worse,
        p_value=p_value,
        p_adjusted=p_adjusted,
        n_needed=needed,
    )
