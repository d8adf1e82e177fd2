"""Many tokenised conversations in little memory, and as a file."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from training.chat import Encoded


class Rows(NamedTuple):
    """Some conversations, padded on the right to one length."""

    ids: NDArray[np.int64]
    """(n_conversations, width)."""
    learn: NDArray[np.bool_]
    """Whether the model should learn to write the token, same shape."""
    lengths: NDArray[np.int64]
    """Tokens of each without padding."""


class PackedExamples(Sequence[Encoded]):
    """A sequence of `Encoded` in three arrays: 8 bytes a token, where tuples take a hundred.

    Args:
        tokens: Token ids of all, one after another, int32.
        learn: Whether each is learnt; same length.
        ends: Where each one ends, (n,) int64.
        prefix: Token ids that open every one of them, kept once; none of them is learnt.
    """

    def __init__(
        self,
        tokens: NDArray[np.int32],
        learn: NDArray[np.bool_],
        ends: NDArray[np.int64],
        *,
        prefix: Sequence[int] = (),
    ) -> None:
        self.tokens = tokens
        self.learn = learn
        self.ends = ends
        self.prefix = tuple(prefix)
        self._starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        self.lengths: NDArray[np.int64] = ends - self._starts + len(self.prefix)
        """Tokens of each conversation, the prefix included, (n,)."""

    @classmethod
    def of(cls, examples: Iterable[Encoded], *, prefix: Sequence[int] = ()) -> "PackedExamples":
        """Pack conversations.

        Args:
            examples: What to pack; each begins with `prefix`.
            prefix: Kept once.

        Raises:
            ValueError: If one does not begin so.
        """
        if isinstance(examples, PackedExamples):
            return examples
        skipped = len(prefix)
        parts: list[NDArray[np.int32]] = []
        flags: list[NDArray[np.bool_]] = []
        for example in examples:
            if example.ids[:skipped] != tuple(prefix) or any(example.learn[:skipped]):
                raise ValueError("A conversation does not begin with the prefix, unlearnt")
            parts.append(np.array(example.ids[skipped:], np.int32))
            flags.append(np.array(example.learn[skipped:], np.bool_))
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(
            np.concatenate(parts) if parts else np.zeros(0, np.int32),
            np.concatenate(flags) if flags else np.zeros(0, np.bool_),
            ends,
            prefix=prefix,
        )

    def __len__(self) -> int:
        """Return how many conversations there are."""
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Encoded]: ...

    def __getitem__(self, index: int | slice) -> Encoded | Sequence[Encoded]:
        """Return one conversation, or a list of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        where = slice(self._starts[index], self.ends[index])
        return Encoded(
            ids=(*self.prefix, *self.tokens[where].tolist()),
            learn=(*[False] * len(self.prefix), *self.learn[where].tolist()),
        )

    def rows(self, indices: Sequence[int] | NDArray[np.int64], *, pad_id: int) -> Rows:
        """Return some conversations side by side.

        Args:
            indices: Which, at least one.
            pad_id: What stands behind the shorter ones, where nothing is learnt.
        """
        chosen = np.asarray(indices, np.int64)
        lengths = self.lengths[chosen]
        n_prefix = len(self.prefix)
        n_own = lengths - n_prefix
        column = np.arange(n_own.max(initial=0))
        inside = column < n_own[:, None]  # (n_chosen, own_width)
        where = np.where(inside, self._starts[chosen][:, None] + column, 0)
        shape = (len(chosen), n_prefix + len(column))
        ids, learn = np.full(shape, pad_id, np.int64), np.zeros(shape, np.bool_)
        ids[:, :n_prefix] = self.prefix
        ids[:, n_prefix:] = np.where(inside, self.tokens[where], pad_id)
        learn[:, n_prefix:] = self.learn[where] & inside
        return Rows(ids, learn, lengths)
