"""Embeddings to begin with: those of a bag-of-tokens classifier of the same messages.

A network of this size finds out slowly which words matter, one rare word at a time, and learns
orders of words by heart before it does. A classifier that averages token embeddings learns the
words in a minute (Joulin et al. 2017, "Bag of tricks for efficient text classification", eq. 1);
sharing the vectors of character n-grams between tokens lets a rare or misspelt one take after
those that look like it (Bojanowski et al. 2017, "Enriching word vectors with subword information",
section 3.2). The network starts as that classifier: see `skills`.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from training.data.stream import Stream

_BATCH = 1024
_RATE = 3e-3
_TOKEN_DROPOUT = 0.2
"""Share of tokens left out at random, so that no single word decides."""
LABEL_SMOOTHING = 0.05
_GRAM_LENGTHS = (3, 4, 5)
_WORD_START = "<"


class BagOfTokens(NamedTuple):
    """A classifier that averages token embeddings, as a wired network computes it."""

    embeddings: Tensor
    """Of all tokens, (n_tokens, width) float32."""
    head: Tensor
    """Of the classes, (n_classes, width) float32, applied to the normalised average."""


def train_bag_of_tokens(
    messages: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    around: Sequence[int],
    pieces: Sequence[str],
    codes: Tensor,
    n_values: int,
    norm_eps: float,
    n_epochs: int,
    seed: int,
) -> BagOfTokens:
    """Return token embeddings that tell the labels apart, and the classifier that reads them.

    Args:
        messages: Token ids of each message, at least one each.
        labels: Class of each message, from 0.
        around: Token ids that stand around every message: prompt and markup; the last one is the
            position that answers.
        pieces: Text of each token, a leading space where a word begins.
        codes: The rest of the embeddings, (n_tokens, width) float32, zero in the first `n_values`.
        n_values: How many dimensions, the first, are learnt and averaged.
        norm_eps: Of the root mean square normalisation.
        n_epochs: Passes over the messages.
        seed: Seed of initial values, order and dropout.
    """
    generator = torch.Generator().manual_seed(seed)
    grams, offsets, n_grams = gram_table(pieces)
    counts = torch.diff(offsets, append=torch.tensor([len(grams)])).clamp(min=1)
    width = codes.shape[1]
    own = torch.nn.Parameter(torch.empty(len(pieces), n_values))
    shared = torch.nn.Parameter(torch.empty(max(1, n_grams), n_values))
    head = torch.nn.Parameter(torch.empty(max(labels) + 1, n_values))
    with torch.no_grad():
        for weight, std in ((own, 0.02), (shared, 0.02), (head, n_values**-0.5)):
            weight.normal_(0.0, std, generator=generator)
    fixed = torch.tensor(around)
    room = (0, width - n_values)

    def embeddings() -> Tensor:
        total = functional.embedding_bag(grams, shared, offsets, mode="sum")
        return codes + functional.pad(own + total / counts.sqrt().unsqueeze(1), room)

    def logits(ids: Tensor, starts: Tensor, n_tokens: Tensor) -> Tensor:
        vectors = embeddings()
        values = functional.rms_norm(vectors, (width,), eps=norm_eps)[:, :n_values]
        total = functional.embedding_bag(ids, values, starts, mode="sum")
        average = (total + values[fixed].sum(0)) / (n_tokens + len(fixed)).unsqueeze(1)
        hidden = functional.pad(average, room) + vectors[fixed[-1]]
        return functional.linear(
            functional.rms_norm(hidden, (width,), eps=norm_eps), functional.pad(head, room)
        )

    optimizer = torch.optim.Adam([own, shared, head], lr=_RATE)
    batches = [
        b
        for e in range(n_epochs)
        for b in epoch_batches(len(messages), size=_BATCH, seed=seed, epoch=e)
    ]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / len(batches))
        ids, n_kept = pack_kept([messages[i] for i in batch], generator, dropout=_TOKEN_DROPOUT)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), n_kept.cumsum(0)[:-1]])
        targets = torch.tensor([labels[i] for i in batch])
        loss = functional.cross_entropy(
            logits(ids, starts, n_kept), targets, label_smoothing=LABEL_SMOOTHING
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return BagOfTokens(embeddings(), functional.pad(head, room))


def character_grams(piece: str) -> list[str]:
    """Return the n-grams of 3 to 5 characters of a token, without accents and case, in order."""
    letters = unicodedata.normalize("NFD", piece.lower())
    text = "".join(c for c in letters if not unicodedata.combining(c))
    if text.startswith(" "):
        text = _WORD_START + text.strip()
    return sorted({text[i : i + n] for n in _GRAM_LENGTHS for i in range(len(text) - n + 1)})


def gram_table(pieces: Sequence[str]) -> tuple[Tensor, Tensor, int]:
    """Return the n-gram numbers of all tokens, where each token's begin, and how many there are."""
    found = [character_grams(piece) for piece in pieces]
    number: dict[str, int] = {}
    for grams in found:
        for gram in grams:
            number.setdefault(gram, len(number))
    flat = torch.tensor([number[g] for grams in found for g in grams], dtype=torch.int64)
    lengths = torch.tensor([0, *(len(grams) for grams in found[:-1])])
    return flat, lengths.cumsum(0), len(number)


def epoch_batches(n_messages: int, *, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the numbers of all messages in an order at random, in batches."""
    order = Stream("bag of tokens", seed, epoch).shuffled(range(n_messages))
    return [order[at : at + size] for at in range(0, n_messages, size)]


def pack_kept(
    messages: list[Sequence[int]], generator: torch.Generator, *, dropout: float
) -> tuple[Tensor, Tensor]:
    """Return the tokens that are kept of messages, one after another, and how many of each."""
    lengths = torch.tensor([len(m) for m in messages])
    ids = torch.tensor([token for m in messages for token in m])
    owner = torch.repeat_interleave(torch.arange(len(messages)), lengths)
    kept = torch.rand(len(ids), generator=generator) >= dropout
    first = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
    kept[first] = True  # no bag may be empty
    counts = torch.zeros(len(messages), dtype=torch.int64).index_add_(0, owner, kept.long())
    return ids[kept], counts
