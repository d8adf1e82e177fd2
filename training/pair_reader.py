"""Weights to begin with: those of a classifier of the same messages that reads tokens in pairs.

A bag of tokens (`warm_start`) does not know what stands beside what: a linear classifier on the
same tokens names 5 points more of the unseen messages once it sees pairs of neighbours. Learning
pairs takes a network that runs as a whole very long; here only what is needed for them runs, about
ten times as many messages per second, by the same formulas as in the network:

* the first layer's heads average values and note the code of the token before (`wiring`);
* the first layer's feed-forward part reads each token with the one before and adds to its values;
* two heads of the second layer average those values, a matrix mixes them, the classes read the sum.

`wire` and `skills.wire_reader` make a network of it that answers the same.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from training.warm_start import LABEL_SMOOTHING, epoch_batches, gram_table, pack_kept
from training.wiring import CODE, CODE_NORM, Layout

logger = logging.getLogger(__name__)

_BATCH = 512
_RATE = 8e-3
_WARMUP_STEPS = 40
_REPORT_STEPS = 100
_TOKEN_DROPOUT = 0.1
"""Share of tokens left out at random, so that no single word decides."""
_UNIT_DROPOUT = 0.1
"""Share of a pair's units left out at random."""
_MIX = 2.0
"""What the second average counts for at first, against the first one."""


class PairReader(NamedTuple):
    """The parts of a network that names intents, all float32."""

    embeddings: Tensor
    """Of all tokens, (n_tokens, width)."""
    gate: Tensor
    """Of the first layer's feed-forward part, (n_units, width); `up` as well."""
    up: Tensor
    down: Tensor
    """(n_values, n_units)."""
    mix: Tensor
    """Of the second average, (n_values, n_values)."""
    head: Tensor
    """Of the classes, (n_classes, n_values)."""


class Segments(NamedTuple):
    """Messages one after another, each with the markup that follows it."""

    ids: Tensor
    owner: Tensor
    """Number of the message that a token belongs to."""
    starts: Tensor
    """Where each message begins; its last token stands before the next one's first."""
    lengths: Tensor


def train_pair_reader(
    messages: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    before: Sequence[int],
    after: Sequence[int],
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
        before: Token ids of prompt and markup before every message.
        after: Those after it; the last one is the position that answers.
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
    optimizer = torch.optim.Adam(trained.parameters, lr=_RATE, betas=(0.9, 0.98), fused=True)
    batches = [
        batch
        for epoch in range(n_epochs)
        for batch in epoch_batches(len(messages), size=_BATCH, seed=seed, epoch=epoch)
    ]
    opening = torch.tensor(before)
    for step, batch in enumerate(batches):
        ramp = min(1.0, (step + 1) / _WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = _RATE * ramp * (1 - step / len(batches))
        kept = pack_kept([messages[i] for i in batch], generator, dropout=_TOKEN_DROPOUT)
        segments = with_markup(*kept, after=after)
        targets = torch.tensor([labels[i] for i in batch])
        logits = reader_logits(
            trained.reader(), segments, opening, plan=plan, norm_eps=norm_eps, generator=generator
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
        self.parameters = [
            self._own, self._shared, self._gate, self._up, self._down, self._mix, self._head,
        ]  # fmt: skip

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


def with_markup(ids: Tensor, lengths: Tensor, *, after: Sequence[int]) -> Segments:
    """Return messages with the same markup behind each."""
    tail = torch.tensor(after)
    longer = lengths + len(tail)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), longer.cumsum(0)[:-1]])
    owner = torch.repeat_interleave(torch.arange(len(lengths)), longer)
    within = torch.arange(len(owner)) - starts[owner]
    is_tail = within >= lengths[owner]
    flat = torch.empty(len(owner), dtype=torch.int64)
    flat[~is_tail] = ids
    flat[is_tail] = tail.repeat(len(lengths))
    return Segments(flat, owner, starts, longer)


def reader_logits(
    reader: PairReader,
    segments: Segments,
    before: Tensor,
    *,
    plan: Layout,
    norm_eps: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the classes' logits of each message, (n_messages, n_classes).

    Args:
        reader: Its weights.
        segments: The messages.
        before: Token ids before every message.
        plan: What the dimensions of the embeddings are for.
        norm_eps: Of the root mean square normalisation.
        generator: Of the dropout; without it, nothing is left out.
    """
    width = reader.embeddings.shape[1]
    values, identity, previous = plan.values, plan.identity, plan.previous
    usual_rms = float(reader.embeddings.detach().pow(2).mean(1).sqrt().median())

    def normed(stream: Tensor) -> Tensor:
        return functional.rms_norm(stream, (width,), eps=norm_eps)

    def after_first_layer(own: Tensor, average: Tensor, neighbour: Tensor) -> Tensor:
        """Return the stream behind attention and feed-forward part."""
        noted = neighbour[:, identity] * usual_rms
        stream = torch.cat(
            [own[:, values] + average, own[:, identity], noted, own[:, previous.stop :]], dim=1
        )
        inner = normed(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            units = functional.silu(inner @ reader.gate.T) * (inner @ reader.up.T)
            if generator is not None:
                kept = torch.rand(units.shape, generator=generator) >= _UNIT_DROPOUT
                units = units * kept / (1 - _UNIT_DROPOUT)
            added = (units @ reader.down.T).float()
        return stream + functional.pad(added, (0, width - values.stop))

    opening = reader.embeddings[before]
    opening_seen = normed(opening)
    n_before = len(before)
    places = torch.arange(1, n_before + 1).unsqueeze(1)
    sums = opening_seen[:, values].cumsum(0)
    neighbours = torch.cat([opening_seen[:1], opening_seen[:-1]])
    opening_out = after_first_layer(opening, sums / places, neighbours)

    own = reader.embeddings[segments.ids]
    seen = normed(own)
    running = seen[:, values].cumsum(0)
    earlier = torch.cat([torch.zeros(1, running.shape[1]), running])[segments.starts]
    within = torch.arange(len(own)) - segments.starts[segments.owner]
    average = (running - earlier[segments.owner] + sums[-1]) / (n_before + 1 + within).unsqueeze(1)
    # What stands before a message is the markup that opens it, not the end of the one before.
    neighbours = torch.cat([seen[:1], seen[:-1]])
    neighbours = neighbours.index_copy(
        0, segments.starts, opening_seen[-1:].expand(len(segments.starts), -1)
    )
    out = after_first_layer(own, average, neighbours)

    counted = normed(out)[:, values]
    total = torch.zeros(len(segments.lengths), counted.shape[1]).index_add(
        0, segments.owner, counted
    )
    total = total + normed(opening_out)[:, values].sum(0)
    second = total / (n_before + segments.lengths).unsqueeze(1)
    final = out[segments.starts + segments.lengths - 1]
    final = final + functional.pad(second @ reader.mix.T, (0, width - values.stop))
    return normed(final)[:, values] @ reader.head.T
