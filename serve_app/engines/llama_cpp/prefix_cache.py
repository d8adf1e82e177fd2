"""KV memory that outlives its request, so that later prompts with the same start share it.

Three kinds of sequences are paths of one tree: *running* ones with the prompt they are going to
compute, *kept* ones whose request has ended, and *pinned* ones, which everybody may share and
nobody evicts. No kept one lies on the way of another kept or pinned one: the longer has it all.

A run of tokens that is common to several sequences needs no sequence id of its own. It lives in
theirs, and when the last of them is cut back, that one becomes it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.radix import PUBLIC, Node, PrefixTree, Tokens

_MIN_CUT = 32
"""Tokens that eviction takes from a sequence at least, for each cut is a pass over all cells."""


class Match(NamedTuple):
    """A sequence that begins like a prompt."""

    seq_id: int | None
    n_tokens: int


NOTHING = Match(None, 0)


class PrefixCache:
    """Sequences by their tokens, and what is given up first when memory is short.

    Args:
        pool: Owner of the KV cells.
        max_entries: Sequences kept; 0 switches all sharing off.
    """

    def __init__(self, pool: KvPool, max_entries: int) -> None:
        self.n_evicted_tokens = 0
        self.n_pinned_tokens = 0
        self.n_restored_tokens = 0
        self._pool = pool
        self._max_entries = max_entries
        self._tree = PrefixTree()
        self._kept: set[int] = set()
        self._pinned: set[int] = set()

    @property
    def enabled(self) -> bool:
        """Whether anything is ever shared."""
        return self._max_entries > 0

    def pin(self, seq_id: int, tokens: Tokens, *, restored: bool = False) -> None:
        """Make a computed sequence public and permanent. Only before any request.

        Its cells count as active for good: no plan may ever reckon with them.

        Args:
            seq_id: Acquired, and never released.
            tokens: Exactly the tokens that it has in KV memory.
            restored: Whether they were read instead of computed.
        """
        if self._kept or len(self._tree) > len(self._pinned):
            raise ValueError("prefixes are pinned before the first request")
        self._tree.grow(seq_id, tokens, PUBLIC)
        self._pinned.add(seq_id)
        self.n_pinned_tokens += len(tokens)
        self.n_restored_tokens += restored * len(tokens)

    def announce(self, seq_id: int, tokens: Tokens, *, salt: str = "") -> None:
        """Say which tokens a running sequence is going to have."""
        self._tree.grow(seq_id, tokens, salt)

    def keep(self, seq_id: int, tokens: list[int], *, salt: str = "") -> None:
        """Take over a sequence whose request has ended.

        Args:
            seq_id: The sequence.
            tokens: Exactly the tokens that it has in KV memory.
            salt: Only requests of the same salt find it again.
        """
        if not self.enabled or not tokens:
            self.drop(seq_id)
            return
        announced = self._tree.length(seq_id)
        if announced > len(tokens):
            self._tree.cut(seq_id, len(tokens))
        self._tree.grow(seq_id, np.array(tokens[announced:], dtype=np.int32), salt)
        if self._is_covered(seq_id):
            self.drop(seq_id)
            return
        end = self._tree.end(seq_id)
        for other in [other for other in self._kept if _is_on_way(self._tree.end(other), end)]:
            self.drop(other)
        while len(self._kept) >= self._max_entries:
            self.free_sequence()
        self._pool.retain(seq_id)
        self._kept.add(seq_id)

    def drop(self, seq_id: int) -> None:
        """Empty a running or kept sequence and give its id back."""
        if seq_id in self._tree:
            self._tree.cut(seq_id, 0)
        self._kept.discard(seq_id)
        self._pool.release(seq_id)

    def best(self, tokens: Tokens, *, salt: str = "") -> Match:
        """Return the sequence that has computed the most of a prompt."""
        match = NOTHING
        for n_tokens, holders in self.sharers(tokens, salt=salt):
            if n_tokens <= match.n_tokens:
                break
            for seq_id in holders:
                n = min(n_tokens, self._pool.length(seq_id))
                if n > match.n_tokens:
                    match = Match(seq_id, n)
        return match

    def sharers(self, tokens: Tokens, *, salt: str = "") -> Iterator[tuple[int, set[int]]]:
        """Yield who begins like a prompt and for how many tokens, the longest starts first.

        A running sequence may not have computed all that it has in common yet. Sequences come
        again with their shorter starts.
        """
        for step in reversed(self._tree.walk(tokens, salt)):
            yield step.n_tokens, step.node.holders

    def make_room(self, n_cells: int, *, but: Match = NOTHING) -> bool:
        """Evict until so many cells are free; False if they cannot be.

        Args:
            n_cells: Cells that must be free.
            but: The start of a sequence that must stay.
        """
        while self._pool.free < n_cells:
            if not self._cut_back(n_cells - self._pool.free, but):
                return False
        return True

    def free_sequence(self, *, but: Match = NOTHING) -> bool:
        """Evict a whole sequence, so that its id is free; False if there is none.

        The one goes whose loss is least: of the runs that only it has, the first is the one that
        was used last.
        """
        losses = [(self._loss(seq_id), seq_id) for seq_id in self._kept if seq_id != but.seq_id]
        if not losses:
            return False
        (_, n_tokens), seq_id = min(losses)
        self.n_evicted_tokens += n_tokens
        self.drop(seq_id)
        return True

    def evict(self) -> bool:
        """Give up the end of a sequence that was not used for longest; False if none is kept."""
        return self._cut_back(self._pool.n_cells, NOTHING) or self.free_sequence()

    def clear(self) -> None:
        """Drop all that is kept."""
        for seq_id in list(self._kept):
            self.drop(seq_id)

    def _cut_back(self, n_cells: int, but: Match) -> bool:
        # The end of a sequence goes, that which was not used for longest, as far as no other
        # sequence needs it. Sequences share starts only, so that is the last of its cells.
        for seq_id in sorted(self._kept, key=lambda seq_id: self._tree.end(seq_id).used_at):
            end = self._tree.end(seq_id)
            least = max(end.start, but.n_tokens if seq_id == but.seq_id else 0)
            n_unshared = self._pool.unshared(seq_id, least)
            if n_unshared:
                self._cut(seq_id, end.end - min(n_unshared, max(n_cells, _MIN_CUT)))
                return True
        return False

    def _cut(self, seq_id: int, n_tokens: int) -> None:
        self.n_evicted_tokens += self._tree.length(seq_id) - n_tokens
        self._tree.cut(seq_id, n_tokens)
        self._pool.cut(seq_id, n_tokens)
        if n_tokens == 0 or self._is_covered(seq_id):
            self.drop(seq_id)

    def _loss(self, seq_id: int) -> tuple[int, int]:
        # When it was last of use, and how many tokens are lost.
        end = self._tree.end(seq_id)
        node, used_at, start = end, 0, end.end
        while node.parent is not None and len(node.holders) == 1:
            used_at, start = node.used_at, node.start
            node = node.parent
        return used_at, end.end - start

    def _is_covered(self, seq_id: int) -> bool:
        # Whether another sequence that stays has all of it.
        others = self._tree.end(seq_id).holders - {seq_id}
        return bool(others & (self._kept | self._pinned))


def _is_on_way(node: Node, end: Node) -> bool:
    at: Node | None = end
    while at is not None and at.start >= node.start:
        if at is node:
            return True
        at = at.parent
    return False
