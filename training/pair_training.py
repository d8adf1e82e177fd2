"""Trains a pair reader, whose weights a network begins with, in a tenth of a network's time."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from training.data.stream import Stream
from training.pair_reader import PairReader, reader_logits, with_markup
from training.warm_start import LABEL_SMOOTHING, epoch_batches, gram_table, pack_kept
from training.wiring import CODE, CODE_NORM, Layout

logger = logging.getLogger(__name__)

_BATCH = 512
_RATE = 8e-3
_TOKEN_DECAY = 0.3
"""Weight decay of tokens and their n-grams: without it, rare ones move as far as frequent ones."""
_UNIT_DECAY = 1.0
_WARMUP_STEPS = 40
_REPORT_STEPS = 100
_LONGEST = 96
"""Tokens of a message that are read; memory grows with it, and no phrase is as long."""
_TOKEN_DROPOUT = 0.1
"""Share of tokens left out at random, so that no single word decides."""
_PLAIN_PERCENT = 50
"""Share of batches whose messages come after the prompt alone."""
_MIX = 2.0
"""What the second average counts for at first, against the first one."""


def train_pair_reader(
    messages: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    before: Sequence[Sequence[int]],
    after: Sequence[int],
    window: Tensor,
    pieces: Sequence[str],
    codes: Tensor,
    plan: Layout,
    n_units: int,
    norm_eps: float,
    n_epochs: int,
    seed: int,
) -> PairReader:
    """Return the parts of a network that tell the labels apart.

    Args:
        messages: Token ids of each message, at least one each.
        labels: Class of each message, from 0.
        before: Token ids of prompt and markup before a message, and others that may stand there:
            inventories, earlier turns. A batch has the first one or any of the others, by chance.
        after: Those after it; the last one is the position that answers.
        window: Scores of tokens for the averages, by distance; as long as any message with what
            stands before it.
        pieces: Text of each token, a leading space where a word begins.
        codes: Embeddings without values, (n_tokens, width) float32; their identities move, but
            keep their length.
        plan: What the dimensions of the embeddings are for.
        n_units: Units of the feed-forward part.
        norm_eps: Of the root mean square normalisation.
        n_epochs: Passes over the messages.
        seed: Seed of initial values, order and dropout.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = _Trained(pieces, codes, plan, n_units, max(labels) + 1, generator)
    optimizer = trained.optimizer()
    batches = [
        batch
        for epoch in range(n_epochs)
        for batch in epoch_batches(len(messages), size=_BATCH, seed=seed, epoch=epoch)
    ]
    for step, batch in enumerate(batches):
        ramp = min(1.0, (step + 1) / _WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = _RATE * ramp * (1 - step / len(batches))
        kept = pack_kept([messages[i][:_LONGEST] for i in batch], generator, dropout=_TOKEN_DROPOUT)
        segments = with_markup(*kept, after=after)
        stream = Stream("before pairs", seed, step)
        is_plain = len(before) == 1 or stream.percent(_PLAIN_PERCENT)
        opening = torch.tensor(before[0] if is_plain else stream.choice(before[1:]))
        targets = torch.tensor([labels[i] for i in batch])
        logits = reader_logits(
            trained.reader(),
            segments,
            opening,
            window=window,
            plan=plan,
            norm_eps=norm_eps,
            generator=generator,
        )
        loss = functional.cross_entropy(logits, targets, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % _REPORT_STEPS == 0:
            logger.info(
                "Pairs: step %d/%d, loss %.3f", step + 1, len(batches), float(loss.detach())
            )
    with torch.no_grad():
        return PairReader(*(part.detach() for part in trained.reader()))


class _Trained:
    """What is learnt, and the reader that follows from it."""

    def __init__(
        self,
        pieces: Sequence[str],
        codes: Tensor,
        plan: Layout,
        n_units: int,
        n_classes: int,
        generator: torch.Generator,
    ) -> None:
        def learnt(n_rows: int, n_columns: int, std: float) -> torch.nn.Parameter:
            return torch.nn.Parameter(
                torch.empty(n_rows, n_columns).normal_(0.0, std, generator=generator)
            )

        self._grams, self._offsets, n_grams = gram_table(pieces)
        counts = torch.diff(self._offsets, append=torch.tensor([len(self._grams)])).clamp(min=1)
        self._scale = counts.sqrt().unsqueeze(1)
        self._codes, self._plan = codes, plan
        width, n_values = codes.shape[1], plan.values.stop
        self._own = learnt(len(pieces), n_values + CODE, 0.02)
        self._shared = learnt(max(1, n_grams), n_values + CODE, 0.02)
        self._gate = learnt(n_units, width, width**-0.5)
        self._up = learnt(n_units, width, width**-0.5)
        with torch.no_grad():
            # Nothing is learnt about what a reader does not see, but a network does.
            for weight in (self._gate, self._up):
                weight[:, plan.recent] = 0
                weight[:, plan.copied] = 0
        self._down = torch.nn.Parameter(torch.zeros(n_values, n_units))
        self._mix = torch.nn.Parameter(_MIX * torch.eye(n_values))
        self._head = learnt(n_classes, n_values, n_values**-0.5)

    def optimizer(self) -> torch.optim.AdamW:
        """Return what moves everything learnt."""
        groups = (
            (_TOKEN_DECAY, [self._own, self._shared]),
            (_UNIT_DECAY, [self._gate, self._up, self._down]),
            (0.0, [self._mix, self._head]),
        )
        return torch.optim.AdamW(
            [{"params": weights, "weight_decay": decay} for decay, weights in groups],
            lr=_RATE,
            betas=(0.9, 0.98),
            fused=True,
        )

    def reader(self) -> PairReader:
        total = functional.embedding_bag(self._grams, self._shared, self._offsets, mode="sum")
        learnt = self._own + total / self._scale
        n_values, identity = self._plan.values.stop, self._plan.identity
        moved = self._codes[:, identity] + learnt[:, n_values:]
        moved = CODE_NORM * functional.normalize(moved, dim=1)
        embeddings = torch.cat(
            [learnt[:, :n_values], moved, self._codes[:, identity.stop :]], dim=1
        )
        return PairReader(embeddings, self._gate, self._up, self._down, self._mix, self._head)
