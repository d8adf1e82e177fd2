"""Shares with their intervals."""

from collections.abc import Callable, Collection, Iterable, Sequence

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

    Recall: among items whose intent is out of scope, those taken so. False alarms: among the other
    items with an intent, those taken as out of scope.
    """
    judged = [p for p in predictions if p.intent is not None]
    named = [(p.intent == OUT_OF_SCOPE, p.predicted == OUT_OF_SCOPE) for p in judged]
    decided = [(p.intent == OUT_OF_SCOPE, is_taken_as(p, {OUT_OF_SCOPE})) for p in judged]
    if all(p.out_of_scope is None for p in judged):
        return OutOfScope(recall=_share(named, True), false_alarms=_share(named, False))
    return OutOfScope(
        recall=_share(decided, True),
        false_alarms=_share(decided, False),
        named_recall=_share(named, True),
        named_false_alarms=_share(named, False),
    )


def is_taken_as(prediction: Prediction, out_of_scope: Collection[str]) -> bool:
    """Whether a question is taken as off-topic: by the calibration if there is one, else by name.

    Args:
        prediction: The judged answer.
        out_of_scope: Intents that say so.
    """
    if prediction.out_of_scope is not None:
        return prediction.out_of_scope
    return prediction.predicted in out_of_scope


def _share(said: Sequence[tuple[bool, bool]], outside: bool) -> Rate:
    return rate(taken for is_outside, taken in said if is_outside is outside)


def _by(
    predictions: Sequence[Prediction], keys: Callable[[Prediction], Sequence[str]]
) -> dict[str, Rate]:
    groups: dict[str, list[bool | None]] = {}
    for prediction in predictions:
        for key in keys(prediction):
            groups.setdefault(key, []).append(prediction.correct)
    return {name: rate(groups[name]) for name in sorted(groups)}
