"""The answer contract: what a reply of the OKLA assistant looks like, byte for byte.

The JSON schema in `models/okla/profile` is what serving enforces; `Answer` is the same contract as
a type, used to write training targets and to judge generated text. A unit test holds the two, and
the list of intents, together.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from training.data.catalog import intent_names

PROFILE_DIR = Path(__file__).resolve().parents[1] / "models" / "okla" / "profile"
"""System prompt, chat template and answer schema, shared with serving as files."""

MAX_RESPONSE_CHARS = 320
MAX_QUICK_REPLIES = 3
MAX_QUICK_REPLY_CHARS = 32

Urgency = Literal["none", "low", "medium", "high"]
URGENCIES: tuple[Urgency, ...] = ("none", "low", "medium", "high")


class _Contract(BaseModel):
    """Base of the contract's types: closed, immutable, camelCase on the wire."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=to_camel, populate_by_name=True
    )


class LeadSignals(_Contract):
    """What the last message of the customer says about the sale."""

    urgency: Urgency = "none"
    financing: bool = False
    trade_in: bool = False
    test_drive: bool = False
    contact_provided: bool = False


class Answer(_Contract):
    """One reply of the assistant, fields in the order in which the model writes them."""

    intent: str
    """First: its probability is then the model's belief, and the reply follows from it."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    response: Annotated[str, Field(max_length=MAX_RESPONSE_CHARS)]
    lead_signals: LeadSignals
    handoff: bool
    quick_replies: Annotated[
        list[Annotated[str, Field(max_length=MAX_QUICK_REPLY_CHARS)]],
        Field(max_length=MAX_QUICK_REPLIES),
    ]

    @field_validator("intent")
    @classmethod
    def _known_intent(cls, value: str) -> str:
        if value not in intent_names():
            raise ValueError(f"unknown intent {value!r}")
        return value

    def to_compact_json(self) -> str:
        """Return the training target: no spaces, fixed key order, confidence with two decimals."""
        wire = self.model_dump(by_alias=True)
        fields = [f"{_dumps(key)}:{self._dump_field(key, wire[key])}" for key in wire]
        return "{" + ",".join(fields) + "}"

    @staticmethod
    def _dump_field(key: str, value: object) -> str:
        # json.dumps would write 0.9 for 0.90 and give one number two token sequences.
        return f"{value:.2f}" if key == "confidence" else _dumps(value)


def parse_answer(text: str) -> Answer | None:
    """Return the answer that `text` holds, or None when it breaks the contract.

    Args:
        text: What a model generated, without special tokens.
    """
    try:
        return Answer.model_validate_json(text)
    except ValidationError:
        return None


@cache
def system_prompt() -> str:
    """Return the system prompt that training and serving share."""
    return (PROFILE_DIR / "system_prompt.txt").read_text(encoding="utf-8").strip()


@cache
def chat_template() -> str:
    """Return the Jinja chat template that is stored in the GGUF."""
    return (PROFILE_DIR / "chat_template.jinja").read_text(encoding="utf-8").strip()


@cache
def answer_schema() -> dict[str, Any]:
    """Return the JSON schema of an answer."""
    # Any: it is JSON, forwarded and never read field by field.
    schema: dict[str, Any] = json.loads(
        (PROFILE_DIR / "answer.schema.json").read_text(encoding="utf-8")
    )
    return schema


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
