"""What can be measured: the seam between a run and the models behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from experiments.evaluation.items import Item
from experiments.evaluation.report import TargetInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one item."""

    text: str = ""
    finished: bool = False
    """Whether the model ended the answer, rather than a limit."""
    probability: float | None = None
    """Of the intent in the answer."""
    probabilities: Mapping[str, float] | None = None
    """Of all intents there, where the target tells them."""
    latency_s: float = 0.0
    ttft_s: float | None = None
    completion_tokens: int | None = None
    error: str | None = None


class Target(Protocol):
    """A model that answers items."""

    workers: int
    """Items that may be asked at the same time."""

    def answer(self, item: Item) -> Reply:
        """Ask one item; whatever is wrong with it goes into `Reply.error`.

        Raises:
            TargetUnavailable: If no item can be asked.
        """

    def info(self) -> TargetInfo:
        """Say what was measured; complete only after the last answer."""

    def close(self) -> None:
        """Free what the target holds."""
