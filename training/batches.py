"""The order in which a training sees its conversations, a pure function of seed and step."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from training.chat import Encoded
from training.data.stream import Stream

_POOL_BATCHES = 16
"""Batches that are sorted by length together: less padding, still a random order."""


class Batch(NamedTuple):
    """Token ids and what to learn, padded on the right to one length."""

    ids: list[list[int]]
    learn: list[list[bool]]
    n_tokens: int
    """Tokens without padding."""


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
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._pad_id = pad_id
        self._epoch = lru_cache(maxsize=2)(self._epoch_batches)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        per_epoch = len(self._examples) // self._batch_size
        epoch, index = divmod(step, per_epoch)
        return self._collate([self._examples[i] for i in self._epoch(epoch)[index]])

    def _epoch_batches(self, epoch: int) -> list[list[int]]:
        stream = Stream("batches", self._seed, epoch)
        order = stream.shuffled(range(len(self._examples)))
        pool = self._batch_size * _POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            by_length = sorted(order[start : start + pool], key=self._length)
            batches += [
                by_length[at : at + self._batch_size]
                for at in range(0, len(by_length) - self._batch_size + 1, self._batch_size)
            ]
        return stream.shuffled(batches)

    def _length(self, index: int) -> int:
        return len(self._examples[index].ids)

    def _collate(self, examples: list[Encoded]) -> Batch:
        width = max(len(e.ids) for e in examples)
        return Batch(
            ids=[[*e.ids, *[self._pad_id] * (width - len(e.ids))] for e in examples],
            learn=[[*e.learn, *[False] * (width - len(e.learn))] for e in examples],
            n_tokens=sum(len(e.ids) for e in examples),
        )
