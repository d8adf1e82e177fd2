"""Prompt lookup: guessing the next tokens of an answer from where its last ones stood before.

Answers repeat what the prompt says (prices, names) and what answers before them said (the tail of a
JSON object). A guess costs rows of a batch, not steps, and is checked by the model itself: every
token is drawn from the model's own logits, a guess only decides which of them are computed
together. So guesses change the speed of an answer, never its distribution.
"""

import numpy as np
from numpy.typing import NDArray

_LONGEST, _SHORTEST = 4, 2
"""Tokens at the end of the answer that must have occurred before, tried from long to short."""
_FIRST_RATE = 0.5
_WEIGHT = 0.2
"""Weight of the newest guess in the rate of right ones."""
_RETRY_EVERY = 24
"""After so many tokens without a guess the rate is believed half-way to the first one again."""


class Lookup:
    """The guesses of one answer.

    Args:
        prompt: Tokens before the answer.
        n_max: Tokens of prompt and answer together at most.
        earlier: Tokens of earlier answers, which may be guessed from as well.
    """

    def __init__(
        self, prompt: list[int], n_max: int, earlier: NDArray[np.int32] | None = None
    ) -> None:
        n_earlier = 0 if earlier is None else len(earlier)
        self._tokens = np.empty(n_earlier + n_max + 1, dtype=np.int32)
        if earlier is not None:
            self._tokens[:n_earlier] = earlier
        self._tokens[n_earlier : n_earlier + len(prompt)] = prompt
        self._start = n_earlier
        self._n = n_earlier + len(prompt)
        self._n_since = 0
        self.rate = _FIRST_RATE
        """Share of first guesses that were right, lately."""

    def follow(self, tokens: list[int]) -> None:
        """Take over what the answer has gained.

        Args:
            tokens: Prompt and answer so far.
        """
        new = tokens[self._n - self._start :]
        self._tokens[self._n : self._n + len(new)] = new
        self._n += len(new)
        self._n_since += len(new)
        if self._n_since >= _RETRY_EVERY:
            self._n_since = 0
            self.rate += (_FIRST_RATE - self.rate) / 2 if self.rate < _FIRST_RATE else 0.0

    def propose(self, n: int) -> tuple[int, ...]:
        """Return at most `n` tokens that may come next; the latest occurrence counts.

        Finding nothing lowers the rate.
        """
        known = self._tokens[: self._n]
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            if self._n <= length:
                continue
            at = _last_occurrence(known[:-1], known[self._n - length :])
            if at is not None:
                begin = at + length
                return tuple(int(token) for token in known[begin : begin + n])
        self.rate *= 1 - _WEIGHT  # an answer that repeats nothing is not worth the search
        return ()

    def record(self, n_proposed: int, n_right: int) -> None:
        """Learn how a guess turned out."""
        if n_proposed:
            self._n_since = 0
            # The first wrong token ends a guess: what comes behind it says nothing.
            tries = min(n_proposed, n_right + 1)
            self.rate += _WEIGHT * (n_right / tries - self.rate)


def _last_occurrence(tokens: NDArray[np.int32], pattern: NDArray[np.int32]) -> int | None:
    n = len(tokens) - len(pattern) + 1
    if n <= 0:
        return None
    hits = tokens[len(pattern) - 1 :] == pattern[-1]
    for offset in range(len(pattern) - 1):
        hits &= tokens[offset : offset + n] == pattern[offset]
    found = np.flatnonzero(hits)
    return int(found[-1]) if len(found) else None
