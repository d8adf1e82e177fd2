"""What can be measured: the seam between a run and the models behind it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from experiments.evaluation.items import Item
from experiments.evaluation.report import TargetInfo

_INTENT_VALUE = re.compile(rb'"intent"\s*:\s*"([^"\\]*)"')


class ScoredToken(NamedTuple):
    """A token of an answer."""

    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one item."""

    text: str = ""
    finished: bool = False
    """Whether the model ended the answer, rather than a limit."""
    probability: float | None = None
    """Of the intent in the answer."""
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


def intent_probability(tokens: Sequence[ScoredToken]) -> float | None:
    """Return the probability of the intent in an answer, given what stands before it.

    The product over the tokens that reach into the value between the quotes. None if the answer
    has no intent.

    Args:
        tokens: All tokens of the answer in order.
    """
    text = b"".join(token.piece for token in tokens)
    match = _INTENT_VALUE.search(text)
    if match is None or match.start(1) == match.end(1):
        return None
    total, start = 0.0, 0
    for token in tokens:
        end = start + len(token.piece)
        if start < match.end(1) and end > match.start(1):
            total += token.logprob
        start = end
    return min(1.0, math.exp(total))
