"""Shares with their intervals."""

from collections.abc import Callable, Iterable, Sequence

from experiments.evaluation.predictions import Prediction
from experiments.evaluation.report import OutOfScope, Rate, Slices
from experiments.stats.moments import ProportionStats
from experiments.stats.proportions import wilson_interval

OUT_OF_SCOPE = "fuera_de_dominio"
"""The intent of questions that are not about vehicles."""


def rate(outcomes: Iterable[bool | None]) -> Rate:
    """Return the share of yes among the known outcomes, with its 95 % Wilson interval."""
    known = [outcome for outcome in outcomes if outcome is not None]
    if not known:
        return Rate(value=None, n=0)
    arm = ProportionStats(n=len(known), successes=sum(known))
    interval = wilson_interval(arm)
    return Rate(value=arm.estimate, n=arm.n, ci_lower=interval.lower, ci_upper=interval.upper)


def slices_of(predictions: Sequence[Prediction]) -> Slices:
    """Return intent accuracy by suite, intent, register and noise."""
    judged = [p for p in predictions if p.correct is not None]
    return Slices(
        by_suite=_by(judged, lambda p: (p.suite,)),
        by_intent=_by(judged, lambda p: (p.intent or "",)),
        by_register=_by(judged, lambda p: (p.speech_register,) if p.speech_register else ()),
        by_noise=_by(judged, lambda p: p.noise or ("none",)),
    )


def out_of_scope_of(predictions: Sequence[Prediction]) -> OutOfScope:
    """Return how well questions about other things are recognised.

    Recall: among items whose intent is out of scope, those called so. False alarms: among the other
    items with an intent, those called out of scope.
    """
    judged = [p for p in predictions if p.intent is not None]
    called = [(p.intent == OUT_OF_SCOPE, p.predicted == OUT_OF_SCOPE) for p in judged]
    return OutOfScope(
        recall=rate(said for outside, said in called if outside),
        false_alarms=rate(said for outside, said in called if not outside),
    )


def _by(
    predictions: Sequence[Prediction], keys: Callable[[Prediction], Sequence[str]]
) -> dict[str, Rate]:
    groups: dict[str, list[bool | None]] = {}
    for prediction in predictions:
        for key in keys(prediction):
            groups.setdefault(key, []).append(prediction.correct)
    return {name: rate(groups[name]) for name in sorted(groups)}
