"""What an application makes of an answer that it asked for with `logprobs`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import IntentCalibration
from experiments.evaluation.intents import (
    N_CANDIDATES,
    intent_probabilities,
    named_intent,
)
from experiments.evaluation.openai_answer import scored_tokens


class AnswerConfidence(NamedTuple):
    """An answer by its calibration."""

    intent: str
    confidence: float
    """Probability that the intent is right."""
    out_of_scope_probability: float
    out_of_scope: bool | None
    """None where the calibration has no operating point."""


def confidence_of(
    completion: Mapping[str, Any], calibration: IntentCalibration
) -> AnswerConfidence:
    """Judge a chat completion.

    Args:
        completion: The body of the response, parsed; of `openai`, `completion.model_dump()`. Asked
            for with `logprobs: true` and `top_logprobs: 20`.
        calibration: Of the model that answered: `x-carril-model` begins its `model_sha256`, and
            `/readyz` shows its `prior_sha256` as `intent_prior_sha256`.

    Raises:
        BadInput: If it is no completion, came without the candidates, or names no known intent.
    """
    try:
        tokens = scored_tokens(completion["choices"][0])
    except (KeyError, IndexError, TypeError, ValueError) as err:
        raise BadInput(f"not a chat completion: {err!r}") from err
    intent = named_intent(tokens)
    probabilities = intent_probabilities(tokens, calibration.labels)
    if intent is None or probabilities is None:
        raise BadInput(
            f"the answer does not tell the probabilities of its intent ({intent!r})",
            f'ask with "logprobs": true and "top_logprobs": {N_CANDIDATES}, of a model that '
            "answers with JSON",
        )
    return AnswerConfidence(intent, *calibration.decide(probabilities, intent))
