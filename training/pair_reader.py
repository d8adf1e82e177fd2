"""A classifier of messages that reads tokens in pairs, in the parts and formulas of a network.

A bag of tokens (`warm_start`) does not know what stands beside what: a linear classifier on the
same tokens names 5 points more of the unseen messages once it sees pairs of neighbours. Learning
pairs takes a network that runs as a whole very long; here only what is needed for them runs, about
ten times as many messages per second, by the same formulas as in the network:

* the first layer's heads average values, of near tokens more (`wiring.window`), and note the code
  of the token before;
* the first layer's feed-forward part reads each token with the one before and adds to its values;
* two heads of the second layer average those values, a matrix mixes them, the classes read the sum.

`pair_training` trains it; `wire` and `skills.wire_reader` make a network that answers the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from training.wiring import Layout

GROWTH = 2.0
"""By how much vectors are longer after the first layer, about."""
UNIT_DROPOUT = 0.4
"""Share of a pair's units left out at random while it learns: less, and pairs are learnt by heart
in place of words."""


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
    window: Tensor,
    plan: Layout,
    norm_eps: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the classes' logits of each message, (n_messages, n_classes).

    Args:
        reader: Its weights.
        segments: The messages.
        before: Token ids before every message.
        window: Scores of tokens for the averages, by distance.
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
                kept = torch.rand(units.shape, generator=generator) >= UNIT_DROPOUT
                units = units * kept / (1 - UNIT_DROPOUT)
            added = (units @ reader.down.T).float()
        return stream + functional.pad(added, (0, width - values.stop))

    n_before, longest = len(before), int(segments.lengths.max())
    opening = reader.embeddings[before]
    opening_seen = normed(opening)
    neighbours = torch.cat([opening_seen[:1], opening_seen[:-1]])
    shortness = _shortness(opening, usual_rms).unsqueeze(0)
    everywhere = torch.arange(n_before + longest).unsqueeze(0)
    counts = _attention(window, shortness, everywhere[:, :n_before])[0]
    opening_out = after_first_layer(opening, counts @ opening_seen[:, values], neighbours)

    places = (segments.owner, torch.arange(len(segments.ids)) - segments.starts[segments.owner])

    def apart(flat: Tensor) -> Tensor:
        """Return what belongs to each message on its own, (n_messages, longest, ...)."""
        room = torch.zeros(len(segments.lengths), longest, *flat.shape[1:])
        return room.index_put(places, flat)

    def all_shortness(before_it: Tensor, own: Tensor, rms: float) -> Tensor:
        first = _shortness(before_it, rms).expand(len(segments.lengths), -1)
        return torch.cat([first, apart(_shortness(own, rms))], dim=1)

    own = reader.embeddings[segments.ids]
    seen = normed(own)
    shortness = all_shortness(opening, own, usual_rms)
    counts = _attention(window, shortness, everywhere[:, n_before:])
    average = counts[:, :, n_before:] @ apart(seen[:, values])
    average = average + counts[:, :, :n_before] @ opening_seen[:, values]
    # What stands before a message is the markup that opens it, not the end of the one before.
    neighbours = torch.cat([seen[:1], seen[:-1]])
    neighbours = neighbours.index_copy(
        0, segments.starts, opening_seen[-1:].expand(len(segments.starts), -1)
    )
    out = after_first_layer(own, average[places], neighbours)

    shortness = all_shortness(opening_out, out, GROWTH * usual_rms)
    answering = (n_before + segments.lengths - 1).unsqueeze(1)
    counts = _attention(window, shortness, answering)[:, 0]
    second = torch.einsum("ms,msv->mv", counts[:, n_before:], apart(normed(out)[:, values]))
    second = second + counts[:, :n_before] @ normed(opening_out)[:, values]
    final = out[segments.starts + segments.lengths - 1]
    final = final + functional.pad(second @ reader.mix.T, (0, width - values.stop))
    return normed(final)[:, values] @ reader.head.T


def _shortness(vectors: Tensor, usual_rms: float) -> Tensor:
    """Return by how much vectors are shorter than usual; it multiplies the scores of attention."""
    rms: Tensor = vectors.detach().pow(2).mean(1).sqrt()
    return usual_rms / rms


def _attention(window: Tensor, shortness: Tensor, places: Tensor) -> Tensor:
    """Return what each token counts for those at some places, (n_sequences, n_places, n_tokens).

    Args:
        window: Scores by distance.
        shortness: Of all tokens, (n_sequences, n_tokens).
        places: Of the tokens that look back, (n_sequences or 1, n_places).
    """
    n_sequences, n_tokens = shortness.shape
    queries = shortness.gather(1, places.expand(n_sequences, -1))
    distances = places.unsqueeze(2) - torch.arange(n_tokens)
    scores = window[distances.clamp(min=0)] * queries.unsqueeze(2) * shortness.unsqueeze(1)
    return scores.masked_fill(distances < 0, -torch.inf).softmax(2)
