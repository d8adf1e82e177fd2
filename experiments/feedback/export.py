"""Feedback as lines of JSON: for review and retraining, and praised answers as training data."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from experiments.events.votes import Vote
from experiments.feedback.answers import RatedAnswer, rated_answers
from experiments.feedback.metrics import BUILT_IN

FEEDBACK_VERSION = 1
CONVERSATION_VERSION = 2


def feedback_lines(votes: Iterable[Vote], *, episodes: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one record per answer, with its built-in metrics, and one per vote on any other metric.

    Args:
        votes: In the order of `read_votes`.
        episodes: Also yield votes on sessions; their `inference_id` is null.
    """

    def wanted(vote: Vote) -> bool:
        return vote.level == "inference" or episodes

    built_in: list[Vote] = []
    for vote in filter(wanted, votes):
        if built_in and (vote.tenant, vote.target) != (built_in[0].tenant, built_in[0].target):
            yield _answer_line(RatedAnswer(tuple(built_in)))
            built_in = []
        if vote.metric in BUILT_IN:
            built_in.append(vote)
        else:
            yield _line(vote, metric_name=vote.metric, value=_value(vote))
    if built_in:
        yield _answer_line(RatedAnswer(tuple(built_in)))


def training_lines(votes: Iterable[Vote]) -> Iterator[dict[str, Any]]:
    """Yield a training conversation per praised answer whose text was captured.

    Conversations of one session share a `family`, so that a split by family cannot put one half of
    a session into training and the other into the test.

    Args:
        votes: In the order of `read_votes`.
    """
    for rated in rated_answers(votes):
        vote = rated.latest
        if not rated.praised or vote.messages is None or not vote.answer:
            continue
        messages = _learnable(json.loads(vote.messages))
        if messages is None or vote.finish_reason != "stop":  # cut off, by length or otherwise
            continue
        session = vote.unit or vote.target
        yield {
            "schema_version": CONVERSATION_VERSION,
            "id": f"feedback-{vote.target}",
            "split": "train",
            "intent": vote.intent,
            "register": None,
            "family": f"feedback-{hashlib.sha256(session.encode()).hexdigest()[:16]}",
            "noise": [],
            "messages": [*messages, {"role": "assistant", "content": vote.answer}],
        }


def _learnable(messages: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """Return a conversation as training reads it; None if it is no dialogue.

    That is: at most one instruction, first, then user and assistant in turns, the user last.
    """
    told = [
        {"role": "system" if m["role"] == "developer" else m["role"], "content": m["content"]}
        for m in messages
    ]
    turns = told[1:] if told and told[0]["role"] == "system" else told
    roles = [turn["role"] for turn in turns]
    in_turns = roles == [("user", "assistant")[n % 2] for n in range(len(roles))]
    return told if in_turns and len(roles) % 2 == 1 and all(m["content"] for m in told) else None


def _answer_line(rated: RatedAnswer) -> dict[str, Any]:
    thumbs = {True: "up", False: "down", None: None}[rated.thumbs_up]
    return _line(
        rated.latest,
        thumbs=thumbs,
        rating=rated.rating,
        category=rated.category,
        correction=rated.correction,
    )


def _line(vote: Vote, **said: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "schema_version": FEEDBACK_VERSION,
        "feedback_id": vote.feedback_id,
        "inference_id": vote.target if vote.level == "inference" else None,
        "received_at": datetime.fromtimestamp(vote.received_at, UTC).isoformat(),
        "unit": vote.unit,
        "tenant": vote.tenant,
        "variant": vote.variant,
        "model_sha256": vote.model_sha256 or None,
        "thumbs": None,
        "rating": None,
        "category": None,
        "correction": None,
        "metric_name": None,
        "value": None,
        "messages": None if vote.messages is None else json.loads(vote.messages),
        "answer": vote.answer,
        "approved": None,
    }
    return record | said


def _value(vote: Vote) -> float | bool | int | str | None:
    match vote.metric_type:
        case "boolean":
            return bool(vote.value)
        case "integer":
            return None if vote.value is None else int(vote.value)
        case "category" | "comment":
            return vote.text
    return vote.value
