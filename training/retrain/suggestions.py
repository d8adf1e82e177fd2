"""What a rated answer suggests to learn, and how sure that is."""

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from experiments.feedback.metrics import Category
from training.contract import MAX_RESPONSE_CHARS, Answer, parse_answer
from training.data.catalog import intent_names, normalise
from training.retrain.examples import Example, last_user_text
from training.retrain.feedback import FeedbackExample, Turn
from training.retrain.neighbours import Neighbours

_MAX_TEXT_CHARS = 2_000


class SuggestionPolicy(BaseModel):
    """How much each kind of statement counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_confidence: Annotated[float, Field(gt=0, le=1)] = 0.85
    """From which a suggestion goes to the review queue; the rule of the OKLA assistant."""
    corrected: float = 0.95
    """A person wrote what is right."""
    confirmed: float = 0.90
    """A person says that the answer is good."""
    contradictory: float = 0.50
    """A person says both: praise and objection on one answer."""


class SuggestionKind(StrEnum):
    """Where the suggested answer comes from."""

    CONFIRMED = "confirmed"
    CORRECTED_ANSWER = "corrected_answer"
    CORRECTED_INTENT = "corrected_intent"
    CORRECTED_TEXT = "corrected_text"
    SUGGESTED_INTENT = "suggested_intent"
    """Nobody said what is right; similar phrases do."""


class ReviewItem(BaseModel):
    """A suggestion for a person to decide on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    inference_id: str
    person: str
    """Whom it counts for; a hash."""
    received_at: AwareDatetime
    kind: SuggestionKind
    intent: str
    confidence: Annotated[float, Field(ge=0, le=1)]
    answered_intent: str | None
    """What the model said."""
    model_sha256: str | None
    messages: Annotated[tuple[Turn, ...], Field(min_length=2)]
    """The conversation, with the suggested answer at its end."""

    @property
    def text(self) -> str:
        """What the customer wrote last, normalised."""
        return normalise(last_user_text(self.messages))

    def example(self) -> Example:
        """Return the training conversation; those of one person are one family."""
        return Example(
            id=f"feedback-{self.item_id}",
            split="train",
            intent=self.intent,
            family=f"feedback-{self.person}",
            messages=self.messages,
        )


Skip = Literal[
    "text was not captured",
    "the answer breaks the contract",
    "says what is wrong, not what is right",
    "says neither good nor bad",
    "not confident enough",
    "roles do not alternate",
    "special tokens in the text",
    "text too long",
]


class Suggested(NamedTuple):
    """Items for the queue, and why the others are none."""

    items: tuple[ReviewItem, ...]
    skipped: dict[str, int]


def suggest(
    feedback: Sequence[FeedbackExample], known: Sequence[Example], policy: SuggestionPolicy
) -> Suggested:
    """Turn rated answers into suggestions.

    Args:
        feedback: Rated answers.
        known: Labelled conversations; their phrases give second opinions, their answers the rest of
            an answer whose intent was corrected.
        policy: Thresholds.
    """
    advisor = _Advisor(known, policy)
    items: list[ReviewItem] = []
    skipped: dict[str, int] = {}
    for said in feedback:
        found = advisor.item(said)
        if isinstance(found, ReviewItem):
            items.append(found)
        else:
            skipped[found] = skipped.get(found, 0) + 1
    return Suggested(tuple(items), dict(sorted(skipped.items())))


class _Advice(NamedTuple):
    kind: SuggestionKind
    answer: Answer
    confidence: float


class _Advisor:
    def __init__(self, known: Sequence[Example], policy: SuggestionPolicy) -> None:
        self._policy = policy
        self._known = [e for e in known if parse_answer(e.messages[-1].content) is not None]
        self._neighbours: Neighbours | None = None
        if self._known:
            self._neighbours = Neighbours(
                [e.text for e in self._known], [e.intent for e in self._known]
            )

    def item(self, said: FeedbackExample) -> ReviewItem | Skip:
        if said.messages is None or said.answer is None:
            return "text was not captured"
        unfit = _unfit(said.messages)
        if unfit is not None:
            return unfit
        advice = self._advice(said, said.messages, parse_answer(said.answer))
        if not isinstance(advice, _Advice):
            return advice
        if advice.confidence < self._policy.min_confidence:
            return "not confident enough"
        target = Turn(role="assistant", content=advice.answer.to_compact_json())
        messages = (*said.messages, target)
        digest = "\n".join([said.inference_id or "", *(f"{m.role}:{m.content}" for m in messages)])
        answered = parse_answer(said.answer)
        return ReviewItem(
            item_id=hashlib.sha256(digest.encode()).hexdigest()[:16],
            inference_id=said.inference_id or "",
            person=said.person,
            received_at=said.received_at,
            kind=advice.kind,
            intent=advice.answer.intent,
            confidence=round(advice.confidence, 4),
            answered_intent=None if answered is None else answered.intent,
            model_sha256=said.model_sha256,
            messages=messages,
        )

    def _advice(
        self, said: FeedbackExample, messages: Sequence[Turn], answer: Answer | None
    ) -> _Advice | Skip:
        if said.correction is not None:
            return self._corrected(said, said.correction, messages, answer)
        if said.category is Category.WRONG_INTENT:
            return self._second_opinion(messages, answer)
        if said.praises:
            if answer is None:
                return "the answer breaks the contract"
            sure = self._policy.contradictory if said.objects else self._policy.confirmed
            return _Advice(SuggestionKind.CONFIRMED, answer, sure)
        return (
            "says what is wrong, not what is right"
            if said.objects
            else ("says neither good nor bad")
        )

    def _corrected(
        self,
        said: FeedbackExample,
        correction: str,
        messages: Sequence[Turn],
        answer: Answer | None,
    ) -> _Advice | Skip:
        sure = self._policy.contradictory if said.praises else self._policy.corrected
        whole = parse_answer(correction)
        if whole is not None:
            return _Advice(SuggestionKind.CORRECTED_ANSWER, whole, sure)
        label = correction.strip().lower()
        if label in intent_names():
            rewritten = self._answer_of(label, messages)
            if rewritten is None:
                return "says what is wrong, not what is right"
            return _Advice(SuggestionKind.CORRECTED_INTENT, rewritten, sure)
        if answer is None or said.category is Category.WRONG_INTENT:
            return "says what is wrong, not what is right"
        if len(correction) > MAX_RESPONSE_CHARS:
            return "text too long"
        changed = answer.model_copy(update={"response": correction.strip()})
        return _Advice(SuggestionKind.CORRECTED_TEXT, changed, sure)

    def _second_opinion(self, messages: Sequence[Turn], answer: Answer | None) -> _Advice | Skip:
        if self._neighbours is None:
            return "says what is wrong, not what is right"
        opinion = self._neighbours.opinions([normalise(last_user_text(messages))])[0]
        if answer is not None and opinion.label == answer.intent:
            return "says what is wrong, not what is right"
        rewritten = self._answer_of(opinion.label, messages)
        if rewritten is None:
            return "says what is wrong, not what is right"
        # As sure as the vote is clear and the phrase is known.
        return _Advice(
            SuggestionKind.SUGGESTED_INTENT, rewritten, min(opinion.share, opinion.similarity)
        )

    def _answer_of(self, label: str, messages: Sequence[Turn]) -> Answer | None:
        """Return the answer to the most similar known phrase with a label."""
        if self._neighbours is None:
            return None
        text = normalise(last_user_text(messages))
        nearest = self._neighbours.nearest_with(text, label)
        return None if nearest is None else parse_answer(self._known[nearest].messages[-1].content)


def _unfit(messages: Sequence[Turn]) -> Skip | None:
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    roles = [turn.role for turn in turns]
    wanted = ["user" if at % 2 == 0 else "assistant" for at in range(len(roles))]
    if not roles or roles != wanted or roles[-1] != "user":
        return "roles do not alternate"
    if any("<|" in turn.content for turn in messages):
        return "special tokens in the text"
    if any(len(turn.content) > _MAX_TEXT_CHARS for turn in turns):
        return "text too long"
    return None
