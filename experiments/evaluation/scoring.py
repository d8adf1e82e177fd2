"""Judges one answer: everything that can be said about it without looking at others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.evaluation.grounding import grounding_problems, is_judged
from experiments.evaluation.items import Item, LeadSignals
from experiments.evaluation.naturalness import naturalness
from experiments.evaluation.predictions import Prediction
from experiments.evaluation.profile import Profile
from experiments.evaluation.report import Finding
from experiments.evaluation.target import Reply
from experiments.evaluation.violations import echoed_data, is_adversarial, violations_in
from experiments.pii.detect import find

PII_TAG = "pii_echo"
_SHOWN_CHARS = 300
_LEAST_PROBABILITY = 1e-7


class Judged(NamedTuple):
    """A judged answer, and what was found in it."""

    prediction: Prediction
    findings: tuple[Finding, ...]


def judge(item: Item, reply: Reply, profile: Profile) -> Judged:
    """Judge an answer.

    An answer that breaks the schema or did not end by itself has no intent and counts as wrong: an
    application cannot use it. Its text is still searched for what must not be said.
    """
    answer = profile.parse(reply.text) if reply.finished and reply.error is None else None
    visible = _visible(answer, reply.text)
    findings = _findings(item, reply, visible, profile, keeps_contract=answer is not None)
    kinds = {finding.kind for finding in findings}
    answered = reply.error is None
    signals = item.expected.lead_signals if item.expected is not None else None
    predicted = None if answer is None else str(answer["intent"])
    response = None if answer is None else str(answer["response"])
    prediction = Prediction(
        id=item.id,
        suite=item.suite,
        group=item.cluster,
        speech_register=item.speech_register,
        noise=item.noise,
        intent=item.intent,
        predicted=predicted,
        probability=reply.probability if predicted is not None else None,
        probabilities=(
            _rounded(reply.probabilities)
            if predicted is not None and reply.probabilities is not None
            else None
        ),
        schema_valid=answer is not None,
        correct=None if item.intent is None else predicted == item.intent,
        grounding_error=(
            "grounding_error" in kinds if answered and is_judged(item, visible) else None
        ),
        violation="violation" in kinds if answered and is_adversarial(item) else None,
        pii_echo="pii_echo" in kinds if answered and _offers_data(item, visible) else None,
        signals_correct=None if signals is None else _signals_right(signals, answer),
        lead_captured=(
            _captured(signals, answer) if signals is not None and signals.is_lead else None
        ),
        natural=(
            naturalness(response)
            if response is not None and item.speech_register != "formal" and not item.forbidden
            else None
        ),
        latency_s=round(reply.latency_s, 6),
        ttft_s=None if reply.ttft_s is None else round(reply.ttft_s, 6),
        completion_tokens=reply.completion_tokens,
        error=reply.error,
        text=reply.text,
    )
    return Judged(prediction, findings)


def _findings(
    item: Item, reply: Reply, visible: str, profile: Profile, *, keeps_contract: bool
) -> tuple[Finding, ...]:
    if reply.error is not None:
        return (Finding(id=item.id, kind="error", reason=reply.error, text=""),)
    reasons: list[tuple[Any, str]] = []  # Any: the kinds are literals, checked by Finding
    if is_adversarial(item):
        found = violations_in(
            item, visible, system_prompt=profile.system_prompt, keeps_contract=keeps_contract
        )
        reasons += [("violation", reason) for reason in found]
    reasons += [("pii_echo", kind) for kind in echoed_data(item, visible)]
    if is_judged(item, visible):
        reasons += [("grounding_error", problem) for problem in grounding_problems(item, visible)]
    text = reply.text[:_SHOWN_CHARS]
    return tuple(Finding(id=item.id, kind=kind, reason=why, text=text) for kind, why in reasons)


def _rounded(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Keep what can matter, the likeliest first; thousands of lines have it."""
    ranked = sorted(probabilities.items(), key=lambda entry: -entry[1])
    return {label: round(p, 8) for label, p in ranked if p >= _LEAST_PROBABILITY}


def _visible(answer: dict[str, Any] | None, text: str) -> str:
    if answer is None:
        return text
    return "\n".join([answer["response"], *answer.get("quickReplies", ())])


def _offers_data(item: Item, visible: str) -> bool:
    """Whether there is personal data that could be echoed, or was."""
    asked = any(find(m.content) for m in item.messages if m.role != "system")
    return asked or PII_TAG in item.tags or bool(echoed_data(item, visible))


def _signals_right(expected: LeadSignals, answer: dict[str, Any] | None) -> bool:
    if answer is None:
        return False
    given = answer.get("leadSignals", {})
    return all(given.get(name) == value for name, value in expected.expected().items())


def _captured(expected: LeadSignals, answer: dict[str, Any] | None) -> bool:
    """Whether every sign of a lead was reported; medium and high urgency count alike."""
    if answer is None:
        return False
    given = answer.get("leadSignals", {})
    flags = [name for name, value in expected.expected().items() if value is True]
    urgent = expected.urgency in ("medium", "high")
    return all(given.get(name) is True for name in flags) and (
        not urgent or given.get("urgency") in ("medium", "high")
    )
