"""Embeddings to begin with: those of a bag-of-tokens classifier of the same messages.

A network of this size finds out slowly which words matter, one rare word at a time. A classifier
that averages token embeddings (Joulin et al. 2017, "Bag of tricks for efficient text
classification", eq. 1) learns that in seconds; its embeddings are where the network starts from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from training.data.stream import Stream

_BATCH = 512
_EMBEDDING_RATE = 5e-3
_HEAD_RATE = 2e-3
_TOKEN_DROPOUT = 0.2
"""Share of tokens left out at random, so that no single word decides."""
_LABEL_SMOOTHING = 0.05
_SCALE = 3.0
"""Of the averaged embedding before the classifier."""
EMBEDDING_STD = 0.05
"""Spread of the returned embeddings; normalisation in the network makes it uncritical."""


def bag_of_tokens_embeddings(
    messages: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    vocab_size: int,
    width: int,
    n_epochs: int,
    seed: int,
) -> Tensor:
    """Return token embeddings that tell the labels apart, (vocab_size, width) float32.

    Args:
        messages: Token ids of each message, at least one each.
        labels: Class of each message, from 0.
        vocab_size: Number of tokens.
        width: Dimensions of an embedding.
        n_epochs: Passes over the messages.
        seed: Seed of initial values, order and dropout.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.nn.EmbeddingBag(vocab_size, width, mode="mean")
    head = torch.nn.Linear(width, max(labels) + 1)
    with torch.no_grad():
        embedding.weight.normal_(0.0, EMBEDDING_STD, generator=generator)
        head.weight.normal_(0.0, width**-0.5, generator=generator)
        head.bias.zero_()
    optimizer = torch.optim.Adam(
        [
            {"params": embedding.parameters(), "lr": _EMBEDDING_RATE},
            {"params": head.parameters(), "lr": _HEAD_RATE},
        ]
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    batches = [b for e in range(n_epochs) for b in _epoch(len(messages), seed=seed, epoch=e)]
    for step, batch in enumerate(batches):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (1 - step / len(batches))
        ids, offsets = _bags([messages[i] for i in batch], generator)
        logits = head(_SCALE * embedding(ids, offsets))
        targets = torch.tensor([labels[i] for i in batch])
        loss = functional.cross_entropy(logits, targets, label_smoothing=_LABEL_SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    weight = embedding.weight.detach()
    return weight * (EMBEDDING_STD / weight.std())


def _epoch(n_messages: int, *, seed: int, epoch: int) -> list[list[int]]:
    order = Stream("bag of tokens", seed, epoch).shuffled(range(n_messages))
    return [order[at : at + _BATCH] for at in range(0, n_messages, _BATCH)]


def _bags(messages: list[Sequence[int]], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(m) for m in messages])
    ids = torch.tensor([token for m in messages for token in m])
    owner = torch.repeat_interleave(torch.arange(len(messages)), lengths)
    kept = torch.rand(len(ids), generator=generator) >= _TOKEN_DROPOUT
    first = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
    kept[first] = True  # no bag may be empty
    counts = torch.zeros(len(messages), dtype=torch.int64).index_add_(0, owner, kept.long())
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)[:-1]])
    return ids[kept], offsets
