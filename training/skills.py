"""What a network can do before its training: name intents as a small classifier does, and copy."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from training.config import TrainConfig
from training.exercises import TrainingSet
from training.pair_reader import GROWTH, PairReader
from training.pair_training import train_pair_reader
from training.warm_start import train_bag_of_tokens
from training.wiring import (
    BAG_HEADS,
    Layout,
    can_be_wired,
    layout,
    look_through_window,
    token_codes,
    window,
    wire,
)

logger = logging.getLogger(__name__)

Part = tuple[torch.nn.Parameter, tuple[slice | Tensor, ...]]
"""A weight, and which of its elements."""

_MAX_UNITS = 384
"""Of the first feed-forward part; a network's others are left to what it learns later."""
_FIRST_AVERAGING_HEAD = 1
"""Of the second layer, whose head before it copies."""


def begin_with_skills(network: LlamaForCausalLM, data: TrainingSet, config: TrainConfig) -> None:
    """Start as a small classifier that can copy; what is trained first takes minutes.

    A network of another shape than that needs keeps its initial values.

    Args:
        network: An untrained one.
        data: With `bags` and what belongs to them.
        config: Which classifier (`OptimConfig.warm_start`), and how long it is trained.
    """
    if not can_be_wired(network):
        logger.info("The network has another shape than a wired start needs: it begins at random")
        return
    messages, labels = zip(*data.bags, strict=True)
    width, eps = config.model.hidden_size, config.model.norm_eps
    plan = layout(width)
    codes = token_codes(config.tokenizer.vocab_size, hidden_size=width, seed=config.seed)
    split = len(data.around) - data.n_after
    if config.optim.warm_start == "pairs":
        reader = train_pair_reader(
            messages,
            labels,
            before=[data.around[:split], *_openings(data, split)],
            after=data.around[split:],
            window=window(
                config.model.context_length,
                head_dim=config.model.head_dim,
                rope_theta=config.model.rope_theta,
            ),
            pieces=data.pieces,
            codes=codes,
            plan=plan,
            n_units=min(_MAX_UNITS, config.model.intermediate_size),
            norm_eps=eps,
            n_epochs=config.optim.warm_start_epochs,
            seed=config.seed,
        )
        wire(network, reader.embeddings, seed=config.seed)
        wire_reader(network, reader, plan)
        head = functional.pad(reader.head, (0, width - plan.values.stop))
    else:
        bag = train_bag_of_tokens(
            messages,
            labels,
            around=data.around,
            pieces=data.pieces,
            codes=codes,
            n_values=plan.values.stop,
            norm_eps=eps,
            n_epochs=config.optim.warm_start_epochs,
            seed=config.seed,
        )
        wire(network, bag.embeddings, seed=config.seed)
        head = bag.head
    with torch.no_grad():
        network.lm_head.weight[list(data.label_ids)] = head


def wire_reader(network: LlamaForCausalLM, reader: PairReader, plan: Layout) -> None:
    """Let a network that is wired with the reader's embeddings answer as the reader does.

    Args:
        network: After `wire`. Units of its first feed-forward part beyond the reader's stay as they
            are, and write nothing yet.
        reader: Weights that were trained before; its `head` belongs into the output's rows.
        plan: What the dimensions of the embeddings are for.
    """
    width = network.config.head_dim
    n_units, n_values = len(reader.gate), plan.values.stop
    first, second = network.model.layers[0].mlp, network.model.layers[1].self_attn
    start = _FIRST_AVERAGING_HEAD * width
    index = torch.arange(n_values)
    with torch.no_grad():
        first.gate_proj.weight[:n_units] = reader.gate
        first.up_proj.weight[:n_units] = reader.up
        first.down_proj.weight[plan.values, :n_units] = reader.down
        second.v_proj.weight[start : start + n_values] = 0
        second.v_proj.weight[start + index, index] = 1
        second.o_proj.weight[plan.values, start : start + n_values] = reader.mix
        attention = network.model.layers[0].self_attn
        rms = float(reader.embeddings.pow(2).mean(1).sqrt().median())
        look_through_window(attention, plan, range(BAG_HEADS), rms)
        heads = range(_FIRST_AVERAGING_HEAD, _FIRST_AVERAGING_HEAD + BAG_HEADS)
        look_through_window(second, plan, heads, GROWTH * rms)


def reader_parts(network: LlamaForCausalLM, label_ids: Sequence[int]) -> list[Part]:
    """Return what of a network has come from a reader of pairs, and what it reads through.

    Args:
        network: One that `can_be_wired`.
        label_ids: Token of each class.
    """
    plan, width = layout(network.config.hidden_size), network.config.head_dim
    n_units = min(_MAX_UNITS, network.config.intermediate_size)
    model, everything = network.model, slice(None)
    first, second = model.layers[0], model.layers[1]
    averaging = slice(0, BAG_HEADS * width)
    start = _FIRST_AVERAGING_HEAD * width
    second_averaging = slice(start, start + BAG_HEADS * width)
    labels = torch.tensor(label_ids, device=network.device)
    parts: list[Part] = [
        (model.embed_tokens.weight, (everything, slice(0, plan.identity.stop))),
        (first.mlp.gate_proj.weight, (slice(0, n_units),)),
        (first.mlp.up_proj.weight, (slice(0, n_units),)),
        (first.mlp.down_proj.weight, (everything, slice(0, n_units))),
        (network.lm_head.weight, (labels, plan.values)),
        (model.norm.weight, (everything,)),
    ]
    for layer, heads in ((first, averaging), (second, second_averaging)):
        attention = layer.self_attn
        parts += [
            (projection.weight, (heads,))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        parts += [
            (attention.o_proj.weight, (everything, heads)),
            (layer.input_layernorm.weight, (everything,)),
            (layer.post_attention_layernorm.weight, (everything,)),
        ]
    return parts


def _openings(data: TrainingSet, split: int) -> list[tuple[int, ...]]:
    """Return what else may stand before a message, with the markup that opens it."""
    markup = tuple(data.around[len(data.system_ids) : split])
    return [(*opening, *markup) for opening in data.openings]
