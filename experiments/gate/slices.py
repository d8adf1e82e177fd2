"""Parts of the items in which a candidate may be worse while the average hides it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments.evaluation.predictions import Prediction
from experiments.gate.checks import Check, CheckKind, Outcome
from experiments.gate.comparison import Pair, PairedResult, compare
from experiments.gate.metrics import ItemMetric
from experiments.gate.policy import GatePolicy, MetricName
from experiments.stats.multiplicity import holm


class SliceFindings(NamedTuple):
    """Checks of the slices that are large enough, and the number of those that are not."""

    checks: tuple[Check, ...]
    n_too_small: int


def check_slices(
    pairs: Sequence[Pair], metrics: Mapping[MetricName, ItemMetric], policy: GatePolicy
) -> SliceFindings:
    """Look for slices in which the candidate is worse on a primary metric.

    One-sided tests of harm under Holm over all slices and primary metrics. A slice fails when harm
    is shown; it never makes the gate inconclusive, because a small part cannot show its absence.
    """
    tested: list[tuple[str, ItemMetric, PairedResult]] = []
    too_small = 0
    for name, members in sorted(_slices(pairs).items()):
        for metric in (metrics[primary] for primary in policy.primary):
            n = sum(
                metric.good(one) is not None or metric.good(two) is not None for one, two in members
            )
            if n < policy.min_slice_items:
                too_small += n > 0
                continue
            result = compare(members, metric, policy)
            if result is None:
                continue
            tested.append((name, metric, result))
    adjusted = holm([result.p_worse for _, _, result in tested])
    checks = tuple(
        _check(name, metric, result, p, policy)
        for (name, metric, result), p in zip(tested, adjusted, strict=True)
    )
    return SliceFindings(checks, too_small)


def _slices(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for name in _names(pair[0]):
            found[name].append(pair)
    # A slice with every item in it says what the average says.
    return {name: members for name, members in found.items() if len(members) < len(pairs)}


def _names(item: Prediction) -> Iterator[str]:
    yield f"suite={item.suite}"
    if item.intent is not None:
        yield f"intent={item.intent}"
    if item.speech_register is not None:
        yield f"register={item.speech_register}"
    for noise in sorted(set(item.noise)):
        yield f"noise={noise}"


def _check(
    name: str, metric: ItemMetric, result: PairedResult, p_adjusted: float, policy: GatePolicy
) -> Check:
    difference = result.difference
    harmed = p_adjusted <= policy.alpha and difference.upper < 0
    return Check(
        kind=CheckKind.SLICE,
        name=f"{metric.name.value}[{name}]",
        outcome=Outcome.FAIL if harmed else Outcome.PASS,
        detail=(
            f"{difference.estimate * 100:+.2f} points, {result.better} items better, "
            f"{result.worse} worse of {result.n}; harm p = {p_adjusted:.3g} after Holm"
        ),
        n=result.n,
        value=metric.shown(result.candidate),
        champion=metric.shown(result.champion),
        lower=difference.lower,
        upper=difference.upper,
        threshold=0.0,
        better=result.better,
        worse=result.worse,
        p_value=result.p_worse,
        p_adjusted=p_adjusted,
    )
