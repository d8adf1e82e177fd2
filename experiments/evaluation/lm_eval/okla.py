"""Functions of the lm-eval task: what is asked, and how an answer is judged.

They run inside lm-evaluation-harness and import nothing of carril, so that the figures are an
outside check of ours.
"""

import json
from typing import Any

Doc = dict[str, Any]


def with_intent(dataset: Any) -> Any:
    """Keep single-turn items that have a right intent and no inventory."""
    return dataset.filter(
        lambda doc: (
            doc["intent"] is not None and len(doc["messages"]) == 1 and not doc.get("inventory")
        )
    )


def prompt(doc: Doc) -> str:
    """Return what the customer wrote."""
    return str(doc["messages"][0]["content"])


def process_results(doc: Doc, results: list[str]) -> dict[str, float]:
    """Judge one answer; it must be JSON as it is, without fences around it."""
    try:
        answer = json.loads(results[0])
    except ValueError:
        answer = None
    valid = isinstance(answer, dict)
    right = valid and answer.get("intent") == doc["intent"]
    return {"intent_accuracy": float(right), "json_valid": float(valid)}
