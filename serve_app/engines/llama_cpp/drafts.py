"""Guesses at the next tokens of an answer, and prompt lookup, which takes them from its own text.

Answers repeat what the prompt says, prices and names: behind the tokens that an answer ends with
there may come what came behind them before. A guess costs rows of a batch, not steps, and is
checked by the model itself: every token is drawn from the model's own logits, a guess only decides
which of them are computed together. So guesses change the speed of an answer, never its
distribution.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

_LONGEST, _SHORTEST = 4, 2
"""Tokens at the end of the answer that must have occurred before, tried from long to short."""
_MAX_LENGTH = 8
"""Tokens of one guess at most: the rate to the eighth power is small."""
_FIRST_RATE = 0.5
_WEIGHT = 0.2
"""Weight of the newest guess in the rate of right ones."""
_RETRY_EVERY = 24
"""After so many tokens without a guess the rate is believed half-way to the first one again."""


class Draft(NamedTuple):
    """Tokens that may come next."""

    source: str
    tokens: tuple[int, ...]
    chances: tuple[float, ...]
    """How likely each is right, and all those before it."""
    quiet: frozenset[int] = frozenset()
    """Places of tokens behind which nothing is drawn, so that their rows need no logits."""

    @property
    def n_outputs(self) -> int:
        """Rows that need logits."""
        return len(self.tokens) - len(self.quiet)

    def cut(self, n: int) -> "Draft":
        """Return the first `n` tokens of it."""
        if n >= len(self.tokens):
            return self
        quiet = frozenset(place for place in self.quiet if place < n)
        return Draft(self.source, self.tokens[:n], self.chances[:n], quiet)


GUESS_SOURCES = ("answers", "prompt")
"""Names of the sources, as metrics show them."""
NO_DRAFT = Draft("", (), ())


class Source(Protocol):
    """Something that guesses for one answer."""

    @property
    def rate(self) -> float:
        """About how likely the next guess is right, at best; cheaper than making one."""
        ...

    def propose(self, tokens: list[int], n: int) -> Draft:
        """Return at most `n` tokens that may come behind prompt and answer so far."""
        ...

    def record(self, draft: Draft, n_right: int) -> None:
        """Learn how the latest guess turned out, as far as it was computed."""
        ...


class Lookup:
    """The guesses of one answer from its own text.

    Args:
        prompt: Tokens before the answer.
        n_max: Tokens of prompt and answer together at most.
    """

    def __init__(self, prompt: list[int], n_max: int) -> None:
        self._tokens = np.empty(n_max + 1, dtype=np.int32)
        self._tokens[: len(prompt)] = prompt
        self._n = len(prompt)
        self._n_since = 0
        self.rate = _FIRST_RATE
        """Share of first guesses that were right, lately."""

    def propose(self, tokens: list[int], n: int) -> Draft:
        """Return at most `n` tokens that may come next; the latest occurrence counts.

        Finding nothing lowers the rate.

        Args:
            tokens: Prompt and answer so far.
            n: Bound on the length.
        """
        self._follow(tokens)
        known = self._tokens[: self._n]
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            if self._n <= length:
                continue
            at = _last_occurrence(known[:-1], known[self._n - length :])
            if at is not None:
                begin = at + length
                found = tuple(known[begin : begin + min(n, _MAX_LENGTH)].tolist())
                return Draft("prompt", found, tuple(self.rate**k for k in range(1, len(found) + 1)))
        self.rate *= 1 - _WEIGHT  # an answer that repeats nothing is not worth the search
        return NO_DRAFT

    def record(self, draft: Draft, n_right: int) -> None:
        """Learn how the latest guess turned out, as far as it was computed."""
        n = len(draft.tokens)
        if n:
            self._n_since = 0
            # The first wrong token ends a guess: what comes behind it says nothing.
            self.rate += _WEIGHT * (n_right / min(n, n_right + 1) - self.rate)

    def _follow(self, tokens: list[int]) -> None:
        new = tokens[self._n :]
        self._tokens[self._n : self._n + len(new)] = new
        self._n += len(new)
        self._n_since += len(new)
        if self._n_since >= _RETRY_EVERY:
            self._n_since = 0
            self.rate += (_FIRST_RATE - self.rate) / 2 if self.rate < _FIRST_RATE else 0.0


def _last_occurrence(tokens: NDArray[np.int32], pattern: NDArray[np.int32]) -> int | None:
    n = len(tokens) - len(pattern) + 1
    if n <= 0:
        return None
    hits = tokens[len(pattern) - 1 :] == pattern[-1]
    for offset in range(len(pattern) - 1):
        hits &= tokens[offset : offset + n] == pattern[offset]
    found = np.flatnonzero(hits)
    return int(found[-1]) if len(found) else None
