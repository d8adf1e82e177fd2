"""What a training learns from, and which batches of it each step sees."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.batches import Batch, BatchPlan
from training.chat import Encoded
from training.config import OptimConfig
from training.data.stream import Stream


class TrainingSet(NamedTuple):
    """What a network learns from."""

    answers: Sequence[Encoded]
    """Conversations with the answer to write."""
    intents: Sequence[Encoded]
    """Single messages with the intent to name."""
    prefix: tuple[int, ...]
    """Token ids that open all of them."""
    system_ids: tuple[int, ...] = ()
    """What single messages open with."""
    openings: Sequence[tuple[int, ...]] = ()
    """Other openings for them: inventories and earlier turns."""
    bags: Sequence[tuple[Sequence[int], int]] = ()
    """Token ids of single messages and the number of their intent, to start embeddings from."""
    around: Sequence[int] = ()
    """Token ids of prompt and markup around each of them; the answer follows the last one."""
    n_after: int = 1
    """How many of those, the last ones, stand after the message."""
    label_ids: Sequence[int] = ()
    """Token of each intent."""
    lost_id: int = 0
    """Token in place of one that is blotted out; it stands nowhere else."""
    pieces: Sequence[str] = ()
    """Text of every token."""


class Exercise(NamedTuple):
    """A batch and the token ids with which all of it begins."""

    batch: Batch
    prefix: tuple[int, ...]


def n_computed(exercise: Exercise) -> int:
    """Return the tokens that an exercise takes: what opens all of it is computed once."""
    batch, prefix = exercise
    return batch.n_tokens - (len(batch.ids) - 1) * len(prefix)


class StepBatches:
    """Which batches a step learns from: intents always, whole answers in some or all steps.

    A pure function of data, configuration and step, so that a resumed training sees what an
    undisturbed one does.
    """

    def __init__(self, data: TrainingSet, optim: OptimConfig, *, seed: int) -> None:
        self._data = data
        self.lost_id = data.lost_id
        """Token in place of one that is blotted out."""
        self._optim = optim
        self._seed = seed
        sizes = (optim.intent_batch_size, optim.batch_size)
        self._intents, self._answers = (
            BatchPlan(examples, batch_size=size, seed=seed, pad_id=0)
            for examples, size in zip((data.intents, data.answers), sizes, strict=True)
        )

    def at(self, step: int) -> list[Exercise]:
        """Return the batches of a step; the loss of the last one is what is reported."""
        exercises = [self._intent_exercise(step)]
        n_before = self._n_answer_batches(step)
        if self._n_answer_batches(step + 1) > n_before:
            exercises.append(Exercise(self._answers.batch(n_before), self._data.prefix))
        return exercises

    def _intent_exercise(self, step: int) -> Exercise:
        batch, plain = self._with_lost_tokens(step), self._data.system_ids
        stream = Stream("opening", self._seed, step)
        if not self._data.openings or not stream.percent(self._optim.opening_percent):
            return Exercise(batch, self._data.prefix)
        opening = stream.choice(self._data.openings)
        n_rows, n_plain = len(batch.ids), len(plain)
        before = np.tile(np.array(opening, np.int64), (n_rows, 1))
        moved = Batch(
            ids=np.hstack([before, batch.ids[:, n_plain:]]),
            learn=np.hstack([np.zeros_like(before, np.bool_), batch.learn[:, n_plain:]]),
            lengths=batch.lengths + len(opening) - n_plain,
        )
        return Exercise(moved, opening)

    def _with_lost_tokens(self, step: int) -> Batch:
        batch, percent = self._intents.batch(step), self._optim.lost_tokens_percent
        if not percent:
            return batch
        n_before = len(self._data.around) - self._data.n_after
        position = np.arange(batch.ids.shape[1])
        n_behind = self._data.n_after + 1  # the intent is the last one
        is_message = (position >= n_before) & (position < (batch.lengths - n_behind)[:, None])
        lost = Stream("lost", self._seed, step).chances(batch.ids.size, percent)
        lost = lost.reshape(batch.ids.shape) & is_message
        return batch._replace(ids=np.where(lost, self._data.lost_id, batch.ids))

    def _n_answer_batches(self, step: int) -> int:
        """Return how many batches of answers come before a step."""
        first, every = self._optim.n_intent_steps, self._optim.answer_every_steps
        early = min(step, first) // every if every else 0
        return early + max(0, step - first)
