"""Sequences of finished requests, kept so that later prompts with the same start share them."""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.kv import KvPool

Tokens = NDArray[np.int32]


class PrefixCache:
    """Finished sequences by last use. Their cells are shared, so a common start is stored once.

    Args:
        pool: Owner of the KV cells.
        max_entries: Sequences kept; 0 switches the cache off.
    """

    def __init__(self, pool: KvPool, max_entries: int) -> None:
        self._pool = pool
        self._max_entries = max_entries
        self._entries: OrderedDict[int, _Kept] = OrderedDict()

    @property
    def enabled(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_entries > 0

    def keep(self, seq_id: int, tokens: list[int], *, salt: str = "") -> None:
        """Take over a sequence whose request has ended.

        Args:
            seq_id: The sequence.
            tokens: Exactly the tokens that it has in KV memory.
            salt: Only requests of the same salt find it again.
        """
        array = np.array(tokens, dtype=np.int32)
        if not self.enabled or not len(array):
            self._pool.release(seq_id)
            return
        for other, kept in list(self._entries.items()):
            if kept.salt != salt:
                continue
            n = common_prefix(array, kept.tokens)
            if n == len(kept.tokens):  # the new one holds all of it
                self._drop(other)
            elif n == len(array):
                self._entries.move_to_end(other)
                self._pool.release(seq_id)
                return
        if len(self._entries) >= self._max_entries:
            self.evict()
        self._pool.retain(seq_id)
        self._entries[seq_id] = _Kept(array, salt)

    def best(self, tokens: Tokens, *, salt: str = "") -> "Match":
        """Return the kept sequence with the longest common start, and mark it as used."""
        match = Match(None, 0)
        for seq_id, kept in self._entries.items():
            if kept.salt != salt:
                continue
            n = common_prefix(tokens, kept.tokens)
            if n > match.n_tokens:
                match = Match(seq_id, n)
        if match.seq_id is not None:
            self._entries.move_to_end(match.seq_id)
        return match

    def evict(self, *, but: int | None = None) -> bool:
        """Drop the sequence that was not used for longest; False if there is none.

        Args:
            but: A sequence that must stay.
        """
        for seq_id in self._entries:
            if seq_id != but:
                self._drop(seq_id)
                return True
        return False

    def clear(self) -> None:
        """Drop everything."""
        while self.evict():
            pass

    def _drop(self, seq_id: int) -> None:
        del self._entries[seq_id]
        self._pool.release(seq_id)


class _Kept(NamedTuple):
    """The tokens of a kept sequence, and who may share them."""

    tokens: Tokens
    salt: str


class Match(NamedTuple):
    """A sequence that begins like a prompt."""

    seq_id: int | None
    n_tokens: int


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Return how many tokens two sequences have in common from their start."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n
