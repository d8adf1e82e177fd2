"""Initial weights with which a network already reads and copies.

Two skills take a small network long to find: which words matter for the intent, and to repeat what
stands in the prompt. Both are simple functions of attention, so the network starts with them and
learns from there. Everything here is ordinary weights: training may change all of it.

* The first layer averages all tokens (a bag of tokens, trained before, see `warm_start`).
* Two more of its heads note what token was before, and which were shortly before.
* A head of the second layer looks for the place whose tokens before are the present ones, and
  passes on the token that stands there: an induction head (Olsson et al. 2022, "In-context learning
  and induction heads"), which prefers the place that resembles the present surroundings.

The residual stream is divided for it: values of the bag, identity of the token, of the one before,
of those shortly before, of the one to copy, and a constant.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

CODE = 32
"""Width of a token's identity: a random code."""
_CODE_STD = 0.3
CODE_NORM = _CODE_STD * math.sqrt(CODE)
_CONSTANT = 1.5
_HEADS = 4
BAG_HEADS = 2
_PREVIOUS_HEAD = 2
_RECENT_HEAD = 3
_PREVIOUS_SHARPNESS = 12.0
"""Of the scores by which the token before is found: at least e^10 against its neighbours."""
_RECENT_SHARPNESS = 0.8
_RECENT_FREQUENCIES = slice(3, 11)
"""Frequencies whose sum fades over about five tokens."""
_WINDOW_SHARPNESS = 2.0
_WINDOW_FREQUENCIES = slice(7, 12)
"""Frequencies whose sum hardly falls within a message and is gone after sixty tokens."""
_MATCH_SHARPNESS = (14.0, 10.0)
"""Scores of a place with the same token before, and of one with the same tokens shortly before."""
_SLOWEST = 19
"""Pairs of dimensions that rotate too little over a prompt to spoil the comparison of content, from
a `rope_theta` of 1e6 on. At 1e4, half of what stands 200 tokens before is not found again."""
_COPY_GAIN = 1.0
_READOUT = 1.0


class Layout(NamedTuple):
    """Which dimensions of the residual stream are for what."""

    values: slice
    identity: slice
    previous: slice
    recent: slice
    copied: slice
    constant: int


def layout(hidden_size: int) -> Layout:
    """Return the layout of a network's residual stream."""
    start = hidden_size - 1 - 4 * CODE
    identity, previous, recent, copied = (
        slice(start + i * CODE, start + (i + 1) * CODE) for i in range(4)
    )
    return Layout(slice(0, start), identity, previous, recent, copied, hidden_size - 1)


def can_be_wired(network: LlamaForCausalLM) -> bool:
    """Whether a network has the heads and layers that the skills need."""
    config = network.config
    return bool(
        config.num_key_value_heads == config.num_attention_heads == _HEADS
        and 0 < layout(config.hidden_size).values.stop <= BAG_HEADS * config.head_dim
        and config.head_dim // 2 > _SLOWEST
        and config.num_hidden_layers > 1
        and not config.tie_word_embeddings
    )


def token_codes(n_tokens: int, *, hidden_size: int, seed: int) -> Tensor:
    """Return the embeddings without the bag's values, (n_tokens, hidden_size) float32."""
    generator = torch.Generator().manual_seed(seed)
    plan = layout(hidden_size)
    embeddings = torch.zeros(n_tokens, hidden_size)
    codes = torch.randn(n_tokens, CODE, generator=generator)
    codes *= CODE_NORM / codes.norm(dim=1, keepdim=True)
    embeddings[:, plan.identity] = codes
    embeddings[:, plan.constant] = _CONSTANT
    return embeddings


def wire(network: LlamaForCausalLM, embeddings: Tensor, *, seed: int) -> None:
    """Set the weights of an untrained network.

    Args:
        network: One that `can_be_wired`, its output not tied to its input.
        embeddings: Of all tokens, the bag's values and `token_codes` together.
        seed: Of the projections.
    """
    config = network.config
    plan = layout(config.hidden_size)
    width = config.head_dim
    with torch.no_grad():
        network.model.embed_tokens.weight.copy_(embeddings)
        for layer in network.model.layers:
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        first, second = network.model.layers[0].self_attn, network.model.layers[1].self_attn
        rms = float(embeddings.pow(2).mean(1).sqrt().median())
        rates = _rates(width, config.rope_parameters["rope_theta"])
        _average(first, plan, width)
        unit = _CONSTANT / rms  # of the constant after normalisation
        everywhere = torch.ones_like(rates)
        nearby = torch.zeros_like(rates)
        nearby[_RECENT_FREQUENCIES] = 1
        _look_back(first, plan, _PREVIOUS_HEAD, everywhere, rates, _PREVIOUS_SHARPNESS, unit)
        _look_back(first, plan, _RECENT_HEAD, nearby, 0 * rates, _RECENT_SHARPNESS, unit)
        for head, target in ((_PREVIOUS_HEAD, plan.previous), (_RECENT_HEAD, plan.recent)):
            _carry(first, head, plan.identity, target, width, gain=rms)
        _match(second, plan, width, residual_rms=_residual_rms(network), seed=seed)
        _carry(second, 0, plan.identity, plan.copied, width, gain=_COPY_GAIN)
        network.lm_head.weight[:, plan.copied] = embeddings[:, plan.identity] * _READOUT


def window(n_distances: int, *, head_dim: int, rope_theta: float) -> Tensor:
    """Return the scores of tokens for heads that `look_through_window`, by their distance."""
    rates, weights = _rates(head_dim, rope_theta), _window_frequencies(head_dim)
    cosines = torch.cos(torch.arange(n_distances).unsqueeze(1) * rates) * weights
    return _WINDOW_SHARPNESS * (cosines.sum(1) - weights.sum())


def look_through_window(
    attention: torch.nn.Module, plan: Layout, heads: Sequence[int], residual_rms: float
) -> None:
    """Let heads average the tokens of about one message, the nearer ones more."""
    weights = _window_frequencies(attention.head_dim)
    unit = _CONSTANT / residual_rms
    for head in heads:
        _look_back(attention, plan, head, weights, 0 * weights, _WINDOW_SHARPNESS, unit)


def _window_frequencies(head_dim: int) -> Tensor:
    weights = torch.zeros(head_dim // 2)
    weights[_WINDOW_FREQUENCIES] = 1
    return weights


def _rates(head_dim: int, rope_theta: float) -> Tensor:
    """Return by how much each pair of a head's dimensions rotates from one token to the next."""
    rates: Tensor = rope_theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return rates


def _average(attention: torch.nn.Module, plan: Layout, width: int) -> None:
    """Let the first heads pass the average of the values through."""
    n_values = plan.values.stop
    values, output = attention.v_proj.weight, attention.o_proj.weight
    values[: BAG_HEADS * width] = 0
    index = torch.arange(n_values)
    values[index, index] = 1
    output[index, index] = 1


def _look_back(
    attention: torch.nn.Module,
    plan: Layout,
    head: int,
    weights: Tensor,
    phases: Tensor,
    sharpness: float,
    unit: float,
) -> None:
    """Let a head's scores depend on the distance only: sharpness x sum of weighted cosines.

    The pair that does not rotate takes their maximum off. Scores are multiplied by how short the
    vectors of the two tokens are; a maximum of 0 stays one, any other would let the head look for
    short vectors instead.
    """
    width = 2 * len(weights)
    scale = math.sqrt(sharpness * math.sqrt(width)) / unit
    rows = head * width + torch.arange(len(weights))
    query, key = attention.q_proj.weight, attention.k_proj.weight
    key[head * width : (head + 1) * width] = 0
    weights = weights.clone()
    weights[-1] = 0
    query[rows, plan.constant] = scale * weights
    key[rows, plan.constant] = scale * weights * torch.cos(phases)
    key[rows + len(weights), plan.constant] = scale * weights * torch.sin(phases)
    query[rows[-1], plan.constant] = -scale * weights.pow(2).sum()
    key[rows[-1], plan.constant] = scale


def _carry(
    attention: torch.nn.Module, head: int, source: slice, target: slice, width: int, *, gain: float
) -> None:
    """Let a head carry some dimensions to others."""
    attention.v_proj.weight[head * width : (head + 1) * width] = 0
    index = torch.arange(CODE)
    attention.v_proj.weight[head * width + index, source.start + index] = 1
    attention.o_proj.weight[target.start + index, head * width + index] = gain


def _match(
    attention: torch.nn.Module, plan: Layout, width: int, *, residual_rms: float, seed: int
) -> None:
    """Let the first head look for the place whose past resembles the present."""
    half = width // 2
    slow = torch.arange(half - _SLOWEST, half)
    query, key = attention.q_proj.weight, attention.k_proj.weight
    key[:width] = 0
    generator = torch.Generator().manual_seed(seed + 1)
    pairs = ((plan.identity, plan.previous), (plan.recent, plan.recent))
    unit = CODE_NORM / residual_rms  # norm of a code after normalisation
    for rows, (asked, noted), sharpness in zip(
        (slow, slow + half), pairs, _MATCH_SHARPNESS, strict=True
    ):
        projection, _ = torch.linalg.qr(torch.randn(CODE, CODE, generator=generator))
        projection = projection[: len(rows)] * math.sqrt(CODE / len(rows))
        scale = math.sqrt(sharpness * math.sqrt(width)) / unit
        query[rows, asked] = scale * projection
        key[rows, noted] = scale * projection


def _residual_rms(network: LlamaForCausalLM) -> float:
    """Return the spread of the residual stream after the first layer, on text at random."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(network.config.vocab_size, (1, 64), generator=generator)
    hidden = network.model(ids, output_hidden_states=True).hidden_states[1]
    return float(hidden.pow(2).mean(-1).sqrt().median())
