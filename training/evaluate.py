"""Measures a model file on phrasings that training never saw."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from training.chat import ChatEncoder
from training.contract import Answer, parse_answer
from training.data.generator import Conversation
from training.export.llama_runtime import open_gguf

MAX_REPLY_TOKENS = 200
"""The longest target has about 120 tokens; a reply that goes on has lost its way."""


class Share(BaseModel):
    """A proportion with its denominator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float | None
    """None where there was nothing to count: unknown is not zero."""
    n: int


class EvalReport(BaseModel):
    """How a model did, greedily decoded with the real prompt and without a grammar."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    json_validity: Share
    """Replies that keep the whole contract and end by themselves."""
    intent_accuracy: Share
    """Right intent; a reply that breaks the contract counts as wrong."""
    signals_accuracy: Share
    """All five lead signals right, among valid replies."""
    handoff_accuracy: Share
    """Hand-off right, among valid replies."""
    echo_accuracy: Share
    """Vehicle names in valid replies that are in the conversation too."""
    intent_accuracy_by_register: dict[str, Share]
    intent_accuracy_by_intent: dict[str, Share]
    mean_reply_tokens: float


class _Scored(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    conversation: Conversation
    answer: Answer | None
    n_tokens: int

    @property
    def is_right(self) -> bool:
        return self.answer is not None and self.answer.intent == self.conversation.intent


def evaluate(
    model_path: Path,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    *,
    vehicle_names: Sequence[str],
    threads: int = 2,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> EvalReport:
    """Let a GGUF file answer every conversation and compare with the expected answers.

    Args:
        model_path: The file that would ship.
        tokenizer: Its tokenizer.
        conversations: Held-out conversations.
        vehicle_names: Names whose appearance in a reply must come from the conversation.
        threads: CPU threads.
        on_progress: Called with (done, total) after each conversation.
    """
    encoder = ChatEncoder(tokenizer)
    scored = []
    with open_gguf(model_path, threads=threads) as model:
        for conversation in conversations:
            room = model.n_ctx - MAX_REPLY_TOKENS
            ids = encoder.prompt_ids(conversation.messages[:-1], max_tokens=room)
            reply = model.generate(ids, stop=encoder.eot_id, max_tokens=MAX_REPLY_TOKENS)
            ended = len(reply) < MAX_REPLY_TOKENS
            answer = parse_answer(tokenizer.decode(reply)) if ended else None
            scored.append(_Scored(conversation=conversation, answer=answer, n_tokens=len(reply)))
            on_progress(len(scored), len(conversations))
    return _report(scored, vehicle_names)


def _report(scored: list[_Scored], vehicle_names: Sequence[str]) -> EvalReport:
    valid = [(s.conversation, s.answer) for s in scored if s.answer is not None]
    expected = [(Answer.model_validate_json(c.answer_json), answer) for c, answer in valid]
    echoes = [
        name.lower() in " ".join(m.content.lower() for m in conversation.messages[:-1])
        for conversation, answer in valid
        for name in vehicle_names
        if name in answer.response
    ]
    return EvalReport(
        json_validity=_share([s.answer is not None for s in scored]),
        intent_accuracy=_share([s.is_right for s in scored]),
        signals_accuracy=_share([e.lead_signals == a.lead_signals for e, a in expected]),
        handoff_accuracy=_share([e.handoff == a.handoff for e, a in expected]),
        echo_accuracy=_share(echoes),
        intent_accuracy_by_register=_by(scored, lambda s: s.conversation.register),
        intent_accuracy_by_intent=_by(scored, lambda s: s.conversation.intent),
        mean_reply_tokens=round(sum(s.n_tokens for s in scored) / len(scored), 1),
    )


def _by(scored: list[_Scored], key: Callable[[_Scored], str]) -> dict[str, Share]:
    groups: dict[str, list[bool]] = {}
    for item in scored:
        groups.setdefault(key(item), []).append(item.is_right)
    return {name: _share(groups[name]) for name in sorted(groups)}


def _share(outcomes: Sequence[bool]) -> Share:
    value = round(sum(outcomes) / len(outcomes), 4) if outcomes else None
    return Share(value=value, n=len(outcomes))
