"""Conversations of a dataset, as lines of JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.retraining.errors import BadRecord
from training.data.catalog import intent_names, normalise
from training.data.generator import SCHEMA_VERSION
from training.retrain.feedback import Turn


class Example(BaseModel):
    """A conversation that ends with the answer to learn."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    id: Annotated[str, Field(min_length=1)]
    split: str
    intent: str
    speech_register: Annotated[str | None, Field(alias="register")] = None
    family: str
    noise: tuple[str, ...] = ()
    messages: Annotated[tuple[Turn, ...], Field(min_length=2)]
    inventory: tuple[dict[str, Any], ...] = ()
    """Rows of the system message. Any: JSON, carried along and never read here."""

    @property
    def text(self) -> str:
        """What the customer wrote last, normalised."""
        return normalise(last_user_text(self.messages))

    def to_line(self) -> str:
        """Return one line of JSONL."""
        record = self.model_dump(mode="json", by_alias=True)
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def last_user_text(messages: Iterable[Turn]) -> str:
    """Return the last message of the customer, empty where there is none."""
    return next((m.content for m in reversed(tuple(messages)) if m.role == "user"), "")


def read_examples(path: Path) -> list[Example]:
    """Read a split of a dataset.

    Raises:
        BadRecord: At the first broken line, double id or unknown intent, with its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecord(
            f"cannot read {str(path)!r}: {error}", "carril data generate writes a dataset"
        ) from error
    found: dict[str, Example] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            example = Example.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "line"
            raise BadRecord(f"{path}:{number}: {field}: {first['msg']}") from error
        if example.intent not in intent_names():
            raise BadRecord(f"{path}:{number}: unknown intent {example.intent!r}")
        if example.id in found:
            raise BadRecord(f"{path}:{number}: id {example.id!r} is there twice")
        found[example.id] = example
    return list(found.values())
