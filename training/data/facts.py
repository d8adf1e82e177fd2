"""Dated facts of law and market: shown in prompts, never learnt."""

from datetime import date
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.data.catalog import CatalogError

_FILE = Path(__file__).resolve().parent / "facts.yaml"


class Fact(BaseModel):
    """One statement with where it is from and when it held."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    statement: Annotated[str, Field(min_length=1)]
    figures: tuple[str, ...]
    """What of it goes out of date; no reply template may contain it."""
    source: Annotated[str, Field(min_length=1)]
    valid_from: date
    valid_to: date | None
    """Last day; None while no end is known."""

    def holds_on(self, day: date) -> bool:
        """Whether the fact held on a day, as far as is known."""
        return self.valid_from <= day and (self.valid_to is None or day <= self.valid_to)


class _FactFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: tuple[Fact, ...]


def load_facts() -> tuple[Fact, ...]:
    """Return all facts.

    Raises:
        CatalogError: If the file breaks a rule, or two facts have one id.
    """
    try:
        facts = _FactFile.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8"))).facts
    except ValidationError as err:
        raise CatalogError(f"facts.yaml: {err}") from err
    if len({fact.id for fact in facts}) != len(facts):
        raise CatalogError("facts.yaml: two facts have the same id")
    return facts
