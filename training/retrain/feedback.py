"""Rated answers, from an export file or from the event store, checked line by line."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from experiments.feedback.metrics import Category
from experiments.retraining.errors import BadRecord

SCHEMA_VERSION = 1
_MAX_PROBLEMS = 10
"""Broken lines named before the rest is counted."""


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class FeedbackExample(BaseModel):
    """What somebody said about one answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)]
    feedback_id: Annotated[str, Field(min_length=1)]
    inference_id: str | None
    received_at: AwareDatetime
    unit: str | None = None
    tenant: str | None = None
    variant: str | None = None
    model_sha256: str | None = None
    thumbs: Literal["up", "down"] | None = None
    rating: Annotated[int, Field(ge=1, le=5)] | None = None
    category: Category | None = None
    correction: str | None = None
    messages: tuple[Turn, ...] | None = None
    """Without the answer; None where texts are not captured."""
    answer: str | None = None

    @property
    def person(self) -> str:
        """Whom the feedback counts for, without saying who it is.

        Feedback without a unit shares one person: what nobody can be held to is capped together.
        """
        who = json.dumps([self.tenant, self.unit])
        return hashlib.sha256(who.encode()).hexdigest()[:16]

    @property
    def praises(self) -> bool:
        """Whether anything says that the answer is good."""
        return (
            self.thumbs == "up"
            or (self.rating or 0) >= 4
            or self.category is Category.GOOD_RESPONSE
        )

    @property
    def objects(self) -> bool:
        """Whether anything says that it is not."""
        return (
            self.thumbs == "down"
            or (self.rating is not None and self.rating <= 2)
            or self.category not in (None, Category.GOOD_RESPONSE, Category.OTHER)
        )


def read_export(path: Path) -> list[FeedbackExample]:
    """Read what `carril feedback export` wrote; lines that are not about an answer are left out.

    Raises:
        BadRecord: If any line cannot be used; names the first ones with number and reason.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecord(f"cannot read the feedback in {str(path)!r}: {error}") from error
    return _parse(((f"{path}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()))


def read_events(events: Path) -> list[FeedbackExample]:
    """Read the votes of an event file.

    Raises:
        BadRecord: If it cannot be read.
    """
    from experiments.events.votes import EventFileError, Window, read_votes
    from experiments.feedback.export import feedback_lines

    try:
        records = list(feedback_lines(read_votes(events, Window())))
    except EventFileError as error:
        raise BadRecord(str(error)) from error
    return _parse((f"{events}: {r['feedback_id']}", json.dumps(r)) for r in records)


def _parse(lines: Iterable[tuple[str, str]]) -> list[FeedbackExample]:
    found: list[FeedbackExample] = []
    problems: list[str] = []
    seen: dict[tuple[str | None, str], str] = {}
    for where, line in lines:
        try:
            example = FeedbackExample.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "line"
            problems.append(f"{where}: {field}: {first['msg']}")
            continue
        if example.inference_id is None:
            continue
        if (example.thumbs, example.rating, example.category, example.correction) == (None,) * 4:
            continue  # a vote on a metric of somebody's own
        # Tenants may name each other's ids; only the owner's feedback comes with a text.
        key = (example.tenant, example.inference_id)
        if key in seen:
            problems.append(
                f"{where}: inference_id {example.inference_id!r} is also in {seen[key]}"
            )
            continue
        seen[key] = where
        found.append(example)
    if problems:
        shown = "\n".join(problems[:_MAX_PROBLEMS])
        more = (
            f"\nand {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        )
        raise BadRecord(
            f"{len(problems)} feedback lines cannot be used:\n{shown}{more}",
            "export the feedback again, or mend the lines; nothing was collected",
        )
    return found
