"""Embeddings to begin with: those of a bag-of-tokens classifier of the same messages.

A network of this size finds out slowly which words matter, one rare word at a time, and learns
orders of words by heart before it does. A classifier that averages token embeddings learns the
words in a minute (Joulin et al. 2017, "Bag of tricks for efficient text classification", eq. 1);
sharing the vectors of character n-grams between tokens lets a rare or misspelt one take after
those that look like it (Bojanowski et al. 2017, "Enriching word vectors with subword information",
section 3.2). The network starts as that classifier: see `network.begin_as_bag`.
"""

import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from training.data.stream import Stream

EMBEDDING_STD = 0.05
"""Spread of the returned embeddings; normalisation in the network makes it uncritical."""

_BATCH = 1024
_RATE = 3e-3
_TOKEN_DROPOUT = 0.2
"""Share of tokens left out at random, so that no single word decides."""
_LABEL_SMOOTHING = 0.05
_SCALE = 3.0
"""Of the averaged embedding before the classifier."""
_GRAM_LENGTHS = (3, 4, 5)
_WORD_START = "<"


def bag_of_tokens_embeddings(
    messages: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    pieces: Sequence[str],
    width: int,
    n_epochs: int,
    seed: int,
) -> Tensor:
    """Return token embeddings that tell the labels apart, (n_tokens, width) float32.

    Args:
        messages: Token ids of each message, at least one each.
        labels: Class of each message, from 0.
        pieces: Text of each token, a leading space where a word begins.
        width: Dimensions of an embedding.
        n_epochs: Passes over the messages.
        seed: Seed of initial values, order and dropout.
    """
    generator = torch.Generator().manual_seed(seed)
    grams, offsets, n_grams = _gram_table(pieces)
    counts = torch.diff(offsets, append=torch.tensor([len(grams)])).clamp(min=1)
    own = torch.nn.Parameter(torch.empty(len(pieces), width))
    shared = torch.nn.Parameter(torch.empty(max(1, n_grams), width))
    head = torch.nn.Linear(width, max(labels) + 1)
    with torch.no_grad():
        for weight, std in ((own, 0.02), (shared, 0.02), (head.weight, width**-0.5)):
            weight.normal_(0.0, std, generator=generator)
        head.bias.zero_()

    def embeddings() -> Tensor:
        total = functional.embedding_bag(grams, shared, offsets, mode="sum")
        return own + total / counts.sqrt().unsqueeze(1)

    optimizer = torch.optim.Adam([own, shared, *head.parameters()], lr=_RATE)
    batches = [b for e in range(n_epochs) for b in _epoch(len(messages), seed=seed, epoch=e)]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / len(batches))
        ids, starts = _bags([messages[i] for i in batch], generator)
        bags = functional.embedding_bag(ids, embeddings(), starts, mode="mean")
        targets = torch.tensor([labels[i] for i in batch])
        loss = functional.cross_entropy(
            head(_SCALE * bags), targets, label_smoothing=_LABEL_SMOOTHING
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        result = embeddings()
        return result * (EMBEDDING_STD / result.std())


def character_grams(piece: str) -> list[str]:
    """Return the n-grams of 3 to 5 characters of a token, without accents and case, in order."""
    letters = unicodedata.normalize("NFD", piece.lower())
    text = "".join(c for c in letters if not unicodedata.combining(c))
    if text.startswith(" "):
        text = _WORD_START + text.strip()
    return sorted({text[i : i + n] for n in _GRAM_LENGTHS for i in range(len(text) - n + 1)})


def _gram_table(pieces: Sequence[str]) -> tuple[Tensor, Tensor, int]:
    """Return the n-gram numbers of all tokens, where each token's begin, and how many there are."""
    found = [character_grams(piece) for piece in pieces]
    number: dict[str, int] = {}
    for grams in found:
        for gram in grams:
            number.setdefault(gram, len(number))
    flat = torch.tensor([number[g] for grams in found for g in grams], dtype=torch.int64)
    lengths = torch.tensor([0, *(len(grams) for grams in found[:-1])])
    return flat, lengths.cumsum(0), len(number)


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
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)[:-1]])
    return ids[kept], starts
