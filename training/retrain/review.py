"""The review queue: suggestions and what people decided, append-only.

Nothing in it is ever trained on before somebody approved it. The last decision on an item counts;
the earlier ones stay in the file.
"""

import fcntl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from experiments.retraining.errors import BadRecord
from experiments.retraining.history import append_line, complete_lines, retrain_home
from training.retrain.suggestions import ReviewItem

SCHEMA_VERSION = 1


class ReviewState(StrEnum):
    """Where an item is."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION


class _ItemLine(_Line):
    event: Literal["item"] = "item"
    at: AwareDatetime
    item: ReviewItem


class Decision(_Line):
    """What a person decided."""

    event: Literal["decision"] = "decision"
    at: AwareDatetime
    item_id: str
    decision: Literal[ReviewState.APPROVED, ReviewState.REJECTED]
    by: Annotated[str, Field(min_length=1)]
    note: str = ""


_LINES: TypeAdapter[_ItemLine | Decision] = TypeAdapter(
    Annotated[_ItemLine | Decision, Field(discriminator="event")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """An item with the decisions on it, oldest first."""

    item: ReviewItem
    decisions: tuple[Decision, ...] = ()

    @property
    def state(self) -> ReviewState:
        """What the last decision says."""
        return self.decisions[-1].decision if self.decisions else ReviewState.PENDING

    @property
    def is_seconded(self) -> bool:
        """Whether two people approved it since it was last rejected."""
        people: set[str] = set()
        for decision in self.decisions:
            if decision.decision is ReviewState.REJECTED:
                people.clear()
            else:
                people.add(decision.by.casefold())
        return len(people) > 1


class ReviewQueue:
    """The queue under a home.

    Args:
        home: `CARRIL_HOME`.
    """

    def __init__(self, home: Path) -> None:
        self.path = retrain_home(home) / "review.jsonl"

    def items(self, state: ReviewState | None = None) -> list[Reviewed]:
        """Return the items, in the order of their arrival.

        Raises:
            BadRecord: If a line cannot be used; the message has its number.
        """
        found: dict[str, Reviewed] = {}
        for number, line in enumerate(complete_lines(self.path), start=1):
            try:
                entry = _LINES.validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise BadRecord(f"{self.path}:{number}: {first['loc']}: {first['msg']}") from error
            if isinstance(entry, _ItemLine):
                found.setdefault(entry.item.item_id, Reviewed(item=entry.item))
            elif entry.item_id not in found:
                raise BadRecord(f"{self.path}:{number}: decision on unknown item {entry.item_id!r}")
            else:
                before = found[entry.item_id]
                found[entry.item_id] = Reviewed(
                    item=before.item, decisions=(*before.decisions, entry)
                )
        return [one for one in found.values() if state is None or one.state is state]

    def add(self, items: Iterable[ReviewItem], *, now: datetime) -> int:
        """Append the items that are not in the queue yet and return how many those are."""
        with self._locked():
            known = {reviewed.item.item_id for reviewed in self.items()}
            new = [item for item in items if item.item_id not in known]
            for item in new:
                append_line(self.path, _ItemLine(at=now, item=item).model_dump_json())
        return len(new)

    def decide(
        self,
        references: Sequence[str],
        decision: Literal[ReviewState.APPROVED, ReviewState.REJECTED],
        *,
        by: str,
        note: str = "",
        now: datetime,
    ) -> list[Reviewed]:
        """Record a decision on items, all of them or none.

        Args:
            references: Ids, or how they begin.
            decision: What was decided.
            by: The person who decided.
            note: Why.
            now: When.

        Returns:
            The items as they are now.

        Raises:
            BadRecord: If a reference names no item, or several.
        """
        with self._locked():
            ids = [reviewed.item.item_id for reviewed in self.items()]
            chosen = [_resolve(reference, ids) for reference in references]
            for item_id in dict.fromkeys(chosen):
                line = Decision(at=now, item_id=item_id, decision=decision, by=by, note=note)
                append_line(self.path, line.model_dump_json())
            return [one for one in self.items() if one.item.item_id in chosen]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _resolve(reference: str, ids: Sequence[str]) -> str:
    found = [item_id for item_id in ids if item_id.startswith(reference)] if reference else []
    if len(found) != 1:
        what = "no item" if not found else f"{len(found)} items"
        raise BadRecord(
            f"{what} of the queue begins with {reference!r}", "carril retrain review ls"
        )
    return found[0]
