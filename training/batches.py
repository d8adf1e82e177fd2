"""The order in which a training sees its conversations, a pure function of seed and step."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.chat import Encoded
from training.data.stream import Stream
from training.packed import PackedExamples

_POOL_BATCHES = 16
"""Batches that are sorted by length together: less padding, still a random order."""


class Batch(NamedTuple):
    """Token ids and what to learn, padded on the right to one length."""

    ids: NDArray[np.int64]
    """(n_conversations, width)."""
    learn: NDArray[np.bool_]
    """Same shape."""
    lengths: NDArray[np.int64]
    """Tokens of each without padding, (n_conversations,)."""

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.lengths.sum())


class BatchPlan:
    """Deterministic batches over an encoded dataset.

    Args:
        examples: The dataset.
        batch_size: Conversations in a batch.
        seed: Seed of the order.
        pad_id: Id to pad with; padded positions are never learnt and never seen by others.
    """

    def __init__(
        self, examples: Sequence[Encoded], *, batch_size: int, seed: int, pad_id: int
    ) -> None:
        if len(examples) < batch_size:
            raise ValueError(f"{len(examples)} conversations do not fill a batch of {batch_size}")
        self._examples = PackedExamples.of(examples)
        self._batch_size = batch_size
        self._seed = seed
        self._pad_id = pad_id
        self._epoch = lru_cache(maxsize=2)(self._epoch_batches)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        per_epoch = len(self._examples) // self._batch_size
        epoch, index = divmod(step, per_epoch)
        return Batch(*self._examples.rows(self._epoch(epoch)[index], pad_id=self._pad_id))

    def _epoch_batches(self, epoch: int) -> NDArray[np.int64]:
        """Return the conversations of every batch of an epoch, (n_batches, batch_size)."""
        stream = Stream("batches", self._seed, epoch)
        order = stream.permutation(len(self._examples))
        lengths, pool = self._examples.lengths, self._batch_size * _POOL_BATCHES
        batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            by_length = part[np.argsort(lengths[part], kind="stable")]
            whole = len(part) // self._batch_size * self._batch_size
            batches.append(by_length[:whole].reshape(-1, self._batch_size))
        together = np.concatenate(batches)
        return together[stream.permutation(len(together))]
