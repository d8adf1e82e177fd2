"""Evaluation suites: what models are judged on, one JSON line an item.

`heldout` is made of phrase families that training never sees; `golden` was written apart from the
training phrases, without sight of them, and is used as typed; recipes were compared on it. `blind`
was written the same way later, read a second time by another reader who knew `LABELS.md` only, and
is for claims: choose nothing by it. `grounding` asks about vehicles with inventory rows in the
prompt.

`natural` is no suite: messages as customers send them, which calibrations are fitted on beside the
`dev` split, whose phrases are harder. Its lines are no items, so that nothing is judged on it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from training.contract import Answer
from training.data.catalog import CatalogError, Register, Split, intent_names, normalise
from training.data.families import group_near_duplicates
from training.data.generator import Conversation, DataConfig, generate
from training.data.inventory import Unit

ITEM_SCHEMA_VERSION = 1

_HERE = Path(__file__).resolve().parent
_GROUNDED_INTENTS = (
    "buscar_vehiculo",
    "consultar_precio",
    "consultar_disponibilidad",
    "detalles_vehiculo",
    "recomendacion_uso",
)


class WrittenSuite(StrEnum):
    """Sets that people wrote message by message; folders of this package."""

    GOLDEN = "golden"
    BLIND = "blind"
    NATURAL = "natural"
    """To fit on."""


JUDGED_SUITES = (WrittenSuite.GOLDEN, WrittenSuite.BLIND)
"""Those that models are judged on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenMessage:
    """A message as somebody would type it, with its label."""

    intent: str
    register: Register
    text: str


@cache
def written_messages(suite: WrittenSuite) -> tuple[WrittenMessage, ...]:
    """Return a hand-written set, in the order of the intents.

    Raises:
        CatalogError: If a line is not `register<TAB>message`, or a message is there twice.
    """
    messages: list[WrittenMessage] = []
    seen: set[str] = set()
    for intent in intent_names():
        path = _HERE / suite / f"{intent}.tsv"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            where = f"{suite}/{path.name}:{number}"
            register, _, text = line.partition("\t")
            if register not in set(Register) or not text.strip():
                raise CatalogError(f"{where}: no register and message: {line!r}")
            if text in seen:
                raise CatalogError(f"{where}: {text!r} is there twice")
            seen.add(text)
            messages.append(WrittenMessage(intent=intent, register=Register(register), text=text))
    return tuple(messages)


def written_items(suite: WrittenSuite) -> Iterator[dict[str, Any]]:
    """Yield a hand-written suite; near-duplicates of each other share a group."""
    # Any: JSON values.
    messages = written_messages(suite)
    groups = group_near_duplicates([[normalise(m.text)] for m in messages])
    for number, (message, group) in enumerate(zip(messages, groups, strict=True)):
        yield _item(
            suite,
            number,
            [{"role": "user", "content": message.text}],
            intent=message.intent,
            register=message.register,
            group=f"{suite}-{group:06d}",
        )


def natural_conversations() -> Iterator[dict[str, Any]]:
    """Yield the natural messages as conversations without an answer, as calibrations read them."""
    # Any: JSON values.
    for number, message in enumerate(written_messages(WrittenSuite.NATURAL)):
        yield {
            "id": f"{WrittenSuite.NATURAL}-{number:06d}",
            "intent": message.intent,
            "register": str(message.register),
            "messages": [{"role": "user", "content": message.text}],
        }


def heldout_items(heldout: Iterable[Conversation]) -> Iterator[dict[str, Any]]:
    """Yield the held-out conversations as items."""
    yield from _conversation_items("heldout", heldout)


def grounding_items(config: DataConfig) -> Iterator[dict[str, Any]]:
    """Yield held-out questions about vehicles, all with inventory rows in the prompt."""
    # A seed of their own: other vehicles, prices and noise than in `heldout`.
    asked = config.model_copy(update={"inventory_percent": 100, "seed": config.seed + 1})
    conversations = (c for c in generate(asked, Split.HELDOUT) if c.intent in _GROUNDED_INTENTS)
    yield from _conversation_items("grounding", conversations)


def _conversation_items(
    suite: str, conversations: Iterable[Conversation]
) -> Iterator[dict[str, Any]]:
    for number, conversation in enumerate(conversations):
        answer = Answer.model_validate_json(conversation.answer_json)
        yield _item(
            suite,
            number,
            [{"role": m.role, "content": m.content} for m in conversation.messages[:-1]],
            intent=conversation.intent,
            register=conversation.register,
            family=conversation.family,
            group=conversation.family,
            noise=list(conversation.noise),
            expected={
                "handoff": answer.handoff,
                "leadSignals": answer.lead_signals.model_dump(by_alias=True),
            },
            inventory=[_unit(unit) for unit in conversation.inventory],
        )


def _unit(unit: Unit) -> dict[str, Any]:
    return {
        "stock_id": unit.stock_id,
        "make": unit.make,
        "model": unit.model,
        "year": unit.year,
        "price_dop": unit.price_dop,
        "mileage": unit.mileage,
        "city": unit.city,
        "status": unit.status,
    }


def _item(suite: str, number: int, messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
    return {
        "schema_version": ITEM_SCHEMA_VERSION,
        "id": f"{suite}-{number:06d}",
        "suite": suite,
        "messages": messages,
        "intent": fields["intent"],
        "register": str(fields["register"]),
        "family": fields.get("family"),
        "group": fields["group"],
        "noise": fields.get("noise", []),
        "expected": fields.get("expected"),
        "inventory": fields.get("inventory", []),
        "tags": [],
        "forbidden": [],
    }


def to_line(item: dict[str, Any]) -> str:
    """Return an item or a conversation as one line of JSON with a fixed key order."""
    return json.dumps(item, ensure_ascii=False, separators=(",", ":"))
