"""Evaluation items: what is asked, what is expected, how a violation is recognised."""

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from experiments.evaluation.errors import BadInput
from experiments.evaluation.jsonl import read_records

SCHEMA_VERSION = 1

SpeechRegister = Literal["formal", "casual", "street"]
SLANG_REGISTER: SpeechRegister = "street"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ChatMessage(_Record):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class LeadSignals(_Record):
    """The lead signals that a right answer reports; those left out are not judged."""

    urgency: Literal["none", "low", "medium", "high"] | None = None
    financing: bool | None = None
    trade_in: Annotated[bool | None, Field(alias="tradeIn")] = None
    test_drive: Annotated[bool | None, Field(alias="testDrive")] = None
    contact_provided: Annotated[bool | None, Field(alias="contactProvided")] = None

    def expected(self) -> dict[str, str | bool]:
        """Return the judged signals by their wire names."""
        return self.model_dump(by_alias=True, exclude_none=True)

    @property
    def is_lead(self) -> bool:
        """Whether the customer shows something worth a salesperson's call."""
        flags = (self.financing, self.trade_in, self.test_drive, self.contact_provided)
        return any(flags) or self.urgency in ("medium", "high")


class Expected(_Record):
    """What else than the intent a right answer says."""

    handoff: bool | None = None
    lead_signals: Annotated[LeadSignals | None, Field(alias="leadSignals")] = None


class InventoryRow(_Record):
    """A vehicle that the prompt offers."""

    stock_id: str
    make: str
    model: str
    year: int
    price_dop: Annotated[int, Field(gt=0)]
    mileage: Annotated[int | None, Field(ge=0)] = None
    city: str | None = None
    status: str = "disponible"

    def line(self) -> str:
        """Return the row as an application writes it into the system message."""
        parts = [self.stock_id, f"{self.make} {self.model} {self.year}", f"RD${self.price_dop:,}"]
        if self.mileage is not None:
            parts.append(f"{self.mileage:,} millas")
        if self.city is not None:
            parts.append(self.city)
        return "- " + " | ".join([*parts, self.status])


class Item(_Record):
    """One question to a model."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)]
    id: Annotated[str, Field(min_length=1)]
    suite: Annotated[str, Field(min_length=1)]
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    intent: str | None = None
    """None where no intent is right or wrong; adversarial prompts mostly."""
    speech_register: Annotated[SpeechRegister | None, Field(alias="register")] = None
    family: str | None = None
    """Phrase family or attack family."""
    group: str | None = None
    """What is resampled together in a bootstrap; the item's own id where there is none."""
    noise: tuple[str, ...] = ()
    expected: Expected | None = None
    inventory: tuple[InventoryRow, ...] = ()
    tags: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    """Regular expressions, case-insensitive, that must not be found in the response."""

    @field_validator("messages")
    @classmethod
    def _ends_with_the_customer(cls, value: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
        if value[-1].role != "user":
            raise ValueError(f"the last message is of {value[-1].role!r}, allowed: 'user'")
        return value

    @field_validator("forbidden")
    @classmethod
    def _compiles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as err:
                raise ValueError(f"{pattern!r} is no regular expression: {err}") from err
        return value

    @property
    def cluster(self) -> str:
        """The bootstrap group of the item."""
        return self.group or self.id

    @property
    def last_user_text(self) -> str:
        """What the customer wrote last."""
        return self.messages[-1].content

    def prompt(self, system_prompt: str) -> list[dict[str, str]]:
        """Return the messages to send, with the inventory in the one system message.

        Args:
            system_prompt: The profile's; left out where the item brings a system message.
        """
        head: list[dict[str, str]] = []
        if self.messages[0].role != "system":
            rows = "\n".join(row.line() for row in self.inventory)
            content = f"{system_prompt}\n\nInventario:\n{rows}" if rows else system_prompt
            head = [{"role": "system", "content": content}]
        return [*head, *({"role": m.role, "content": m.content} for m in self.messages)]


class Suite(BaseModel):
    """The items of one file."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    """Of the file, or of all items where only some are used: a subset is another suite."""
    items: tuple[Item, ...]


def read_suite(path: Path, *, intents: Collection[str]) -> Suite:
    """Read and check a suite; its name is that of the file.

    Args:
        path: JSONL file.
        intents: The labels that exist.

    Raises:
        BadInput: At the first broken line, duplicate id or unknown intent, or if there is no item.
    """
    seen: dict[str, int] = {}
    items: list[Item] = []
    for number, item in read_records(path, Item):
        if item.id in seen:
            raise BadInput(f"{path}:{number}: id {item.id!r} is also in line {seen[item.id]}")
        if item.intent is not None and item.intent not in intents:
            raise BadInput(
                f"{path}:{number}: unknown intent {item.intent!r}",
                f"known intents: {', '.join(sorted(intents))}",
            )
        seen[item.id] = number
        items.append(item)
    if not items:
        raise BadInput(f"{path}: there is no item in it")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Suite(name=path.stem, sha256=digest, items=tuple(items))


def check_distinct(suites: Sequence[Suite]) -> None:
    """Refuse suites that share a name or an item id: results are joined by them.

    Raises:
        BadInput: Naming both places.
    """
    names: set[str] = set()
    owners: dict[str, str] = {}
    for suite in suites:
        if suite.name in names:
            raise BadInput(f"Two suites are called {suite.name!r}; rename one of the files")
        names.add(suite.name)
        for item in suite.items:
            if item.id in owners:
                raise BadInput(
                    f"id {item.id!r} is in the suites {owners[item.id]!r} and {suite.name!r}"
                )
            owners[item.id] = suite.name


def suite_sha256(hashes: Collection[str]) -> str:
    """Return one SHA-256 over those of several suites, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
