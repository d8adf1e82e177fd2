"""Which KV cells are in use, exactly, although sequences share them.

llama.cpp frees a cell when the last sequence leaves it and has no call that counts free cells. This
ledger repeats its bookkeeping, so that the scheduler knows before a decode whether a batch fits.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class KvMemory(Protocol):
    """The part of a context that holds sequences."""

    def share(self, source: int, target: int, n_tokens: int) -> None: ...  # noqa: D102
    def cut(self, seq_id: int, n_tokens: int) -> None: ...  # noqa: D102
    def length(self, seq_id: int) -> int: ...  # noqa: D102


class KvPool:
    """Sequence ids and cells of one context; every change to its KV memory goes through here.

    Args:
        memory: The context.
        n_cells: Tokens that it holds over all sequences.
        n_sequences: Sequence ids that it knows.
        n_ctx: Longest sequence, in tokens.
    """

    def __init__(self, memory: KvMemory, *, n_cells: int, n_sequences: int, n_ctx: int) -> None:
        self._memory = memory
        self.n_cells = n_cells
        self.max_length = n_ctx
        self._free_ids = list(range(n_sequences - 1, -1, -1))
        self._free_cells: NDArray[np.int32] = np.arange(n_cells, dtype=np.int32)
        self._n_free = n_cells
        self._references = np.zeros(n_cells, dtype=np.int32)
        self._active_references = np.zeros(n_cells, dtype=np.int32)
        self._n_active = 0
        self._is_active = [False] * n_sequences
        self._cells = np.zeros((n_sequences, n_ctx), dtype=np.int32)
        self._lengths = [0] * n_sequences

    @property
    def free(self) -> int:
        """Cells that no sequence uses."""
        return self._n_free

    @property
    def used(self) -> int:
        """Cells that at least one sequence uses, kept prefixes included."""
        return self.n_cells - self._n_free

    @property
    def active(self) -> int:
        """Cells that a running request uses; the rest of `used` can be evicted."""
        return self._n_active

    def length(self, seq_id: int) -> int:
        """Return how many tokens of a sequence are computed."""
        return self._lengths[seq_id]

    @property
    def has_free_sequence(self) -> bool:
        """Whether `acquire` would succeed."""
        return bool(self._free_ids)

    def inactive(self, seq_id: int, n_tokens: int) -> int:
        """Return how many of a sequence's first cells no running request uses."""
        return int((self._active_references[self._cells[seq_id, :n_tokens]] == 0).sum())

    def unshared(self, seq_id: int, start: int) -> int:
        """Return how many of a sequence's cells from position `start` on only it uses."""
        cells = self._cells[seq_id, start : self._lengths[seq_id]]
        return int((self._references[cells] == 1).sum())

    def held_only_by(self, seq_ids: list[int]) -> int:
        """Return how many active cells no running request uses but these."""
        references = np.zeros(self.n_cells, dtype=np.int32)
        for seq_id in seq_ids:
            references[self._cells[seq_id, : self._lengths[seq_id]]] += 1
        return int(((references > 0) & (references == self._active_references)).sum())

    def acquire(self) -> int:
        """Take an empty sequence id for a running request."""
        seq_id = self._free_ids.pop()
        self._is_active[seq_id] = True
        return seq_id

    def retain(self, seq_id: int) -> None:
        """Keep a sequence whose request has ended; its cells no longer count as active."""
        self._deactivate(self._cells[seq_id, : self._lengths[seq_id]])
        self._is_active[seq_id] = False

    def release(self, seq_id: int) -> None:
        """Empty a sequence and give its id back."""
        self.cut(seq_id, 0)
        self._is_active[seq_id] = False
        self._free_ids.append(seq_id)

    def share(self, source: int, target: int, n_tokens: int) -> None:
        """Let an empty sequence begin with the first tokens of another."""
        if self._lengths[target] or not 0 < n_tokens <= self._lengths[source]:
            raise ValueError(
                f"cannot share {n_tokens} of {self._lengths[source]} tokens with a sequence of "
                f"{self._lengths[target]}"
            )
        self._memory.share(source, target, n_tokens)
        cells = self._cells[source, :n_tokens]
        self._cells[target, :n_tokens] = cells
        self._references[cells] += 1
        self._activate(cells)
        self._lengths[target] = n_tokens

    def grew(self, seq_id: int, n_tokens: int) -> None:
        """Record that a decode added tokens to a sequence."""
        start = self._lengths[seq_id]
        cells = self._free_cells[self._n_free - n_tokens : self._n_free]
        self._n_free -= n_tokens
        self._cells[seq_id, start : start + n_tokens] = cells
        self._references[cells] = 1
        self._active_references[cells] = 1  # nobody had them before
        self._n_active += n_tokens
        self._lengths[seq_id] = start + n_tokens

    def cut(self, seq_id: int, n_tokens: int) -> None:
        """Drop a sequence's tokens from position `n_tokens` on."""
        self._memory.cut(seq_id, n_tokens)
        self._forget(seq_id, n_tokens)

    def resync(self, seq_id: int) -> int:
        """Take over a sequence's length from the context after a failed decode, and return it."""
        known = self._lengths[seq_id]
        actual = self._memory.length(seq_id)
        if actual > known:  # computed, but not recorded: compute it again
            self._memory.cut(seq_id, known)
            return known
        self._forget(seq_id, actual)
        return actual

    def _forget(self, seq_id: int, n_tokens: int) -> None:
        length = self._lengths[seq_id]
        if n_tokens >= length:
            return
        cells = self._cells[seq_id, n_tokens:length]
        if self._is_active[seq_id]:
            self._deactivate(cells)
        self._references[cells] -= 1
        freed = cells[self._references[cells] == 0]
        self._free_cells[self._n_free : self._n_free + len(freed)] = freed
        self._n_free += len(freed)
        self._lengths[seq_id] = n_tokens

    def _activate(self, cells: NDArray[np.int32]) -> None:
        self._n_active += int((self._active_references[cells] == 0).sum())
        self._active_references[cells] += 1

    def _deactivate(self, cells: NDArray[np.int32]) -> None:
        self._active_references[cells] -= 1
        self._n_active -= int((self._active_references[cells] == 0).sum())
