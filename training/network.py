"""The Llama network: built, run with a shared system prompt, saved."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from training.batches import Batch
from training.config import BaseConfig, TrainConfig
from training.errors import TrainingError


def make_deterministic(seed: int, threads: int, *, device: str = "cpu") -> None:
    """Seed torch and, on a CPU, refuse operations whose result depends on scheduling."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu")


def build_network(config: TrainConfig) -> LlamaForCausalLM:
    """Return an untrained network in float32."""
    shape = config.model
    llama = LlamaConfig(
        vocab_size=config.tokenizer.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tie_embeddings,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(llama).to(torch.float32)


def drop_out(network: LlamaForCausalLM, share: float) -> None:
    """Leave out a share of token vectors and of what layers add to them, while training.

    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting",
    where Vaswani et al. 2017 ("Attention is all you need", section 5.4) put it.

    Args:
        network: Changed in place; its weights and files are not.
        share: Between 0 and 1.
    """

    def hook(module: torch.nn.Module, _: object, output: Tensor) -> Tensor:
        return functional.dropout(output, share, module.training)

    network.model.embed_tokens.register_forward_hook(hook)
    for layer in network.model.layers:
        layer.self_attn.o_proj.register_forward_hook(hook)
        layer.mlp.down_proj.register_forward_hook(hook)


def load_weights(network: LlamaForCausalLM, base: BaseConfig) -> None:
    """Start from the weights of another training.

    Raises:
        TrainingError: If they are missing, other ones than the configuration names, or of another
            shape.
    """
    path = base.folder / "hf" / "model.safetensors"
    try:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        raise TrainingError(f"Cannot read the base {str(path)!r}: {err}; train it first") from err
    if actual != base.network_sha256:
        raise TrainingError(
            f"The base {str(path)!r} has SHA-256 {actual}, the configuration names "
            f"{base.network_sha256}"
        )
    try:
        missing, unexpected = safetensors.torch.load_model(network, path, strict=False)
    except RuntimeError as err:  # how torch says that sizes differ
        raise TrainingError(f"The base {str(path)!r} is of another shape: {err}") from err
    if missing or unexpected:
        raise TrainingError(f"The base {str(path)!r} is of another shape: {missing}, {unexpected}")


def count_parameters(network: LlamaForCausalLM) -> int:
    """Return the number of weights, tied ones once."""
    return sum(p.numel() for p in network.parameters())


def save_network(
    network: LlamaForCausalLM, folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write the network as a Hugging Face folder (safetensors); its weights become `dtype`."""
    network.to(dtype).save_pretrained(folder)


class Losses(NamedTuple):
    """What a network loses on a batch, in nats."""

    learnt: Tensor
    """Summed over the tokens to learn."""
    others: Tensor | None
    """Mean over all other tokens behind the prefix, if it was asked for."""


def batch_loss(network: LlamaForCausalLM, batch: Batch, *, prefix: tuple[int, ...]) -> Tensor:
    """Return the summed cross-entropy over the tokens to learn, in nats.

    Args:
        network: The network.
        batch: Padded conversations.
        prefix: What all of them begin with.
    """
    return batch_losses(network, batch, prefix=prefix).learnt


def batch_losses(
    network: LlamaForCausalLM,
    batch: Batch,
    *,
    prefix: tuple[int, ...],
    others: bool = False,
    unwritten: Sequence[int] = (),
) -> Losses:
    """Return the cross-entropy over the tokens to learn and, if wanted, over all others.

    The system prompt opens every conversation, so it runs once for the whole batch and its keys and
    values are shared. Gradients flow through the shared part: the same function, in less time.

    Args:
        network: The network.
        batch: Padded conversations.
        prefix: What all of them begin with.
        others: Whether the other tokens count, too.
        unwritten: Tokens that are not among those: they stand for others.
    """
    device, n_prefix = network.device, len(prefix)
    ids = torch.from_numpy(batch.ids[:, n_prefix:]).to(device)  # (n_conversations, width) int64
    opening = torch.tensor([prefix], device=device)
    shared = network.model(opening, past_key_values=DynamicCache(), use_cache=True)
    cache = shared.past_key_values
    for layer in cache.layers:
        # Views: the gradients of copies would be added up one by one, most of a GPU's time.
        layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
        layer.values = layer.values.expand(len(ids), -1, -1, -1)
    inputs, targets = ids[:, :-1], ids[:, 1:].flatten()
    positions = torch.arange(n_prefix, n_prefix + inputs.shape[1], device=device).unsqueeze(0)
    hidden = network.model(inputs, past_key_values=cache, position_ids=positions).last_hidden_state
    hidden = hidden.flatten(0, 1)

    def summed(where: NDArray[np.bool_]) -> Tensor:
        # Which tokens is decided here: asking a GPU for it would wait for all that it has to do.
        at = torch.from_numpy(np.flatnonzero(where)).to(device)
        # Whatever the products' precision, probabilities are summed in float32.
        logits = network.lm_head(hidden[at]).float()  # (n_tokens, n_vocab)
        return functional.cross_entropy(logits, targets[at], reduction="sum")

    learn = batch.learn[:, n_prefix + 1 :]
    if not others:
        return Losses(summed(learn), None)
    inside = np.arange(n_prefix + 1, batch.ids.shape[1]) < batch.lengths[:, None]
    rest = inside & ~learn & ~np.isin(batch.ids[:, n_prefix + 1 :], unwritten)
    return Losses(summed(learn), summed(rest) / int(rest.sum()))


def count_learnt(batch: Batch) -> int:
    """Return how many tokens of a batch are learnt."""
    return int(batch.learn.sum())


def sequence_logits(network: LlamaForCausalLM, ids: list[int]) -> Tensor:
    """Return the logits of one sequence, (n_tokens, n_vocab) float32."""
    with torch.inference_mode():
        logits: Tensor = network(torch.tensor([ids])).logits[0].float()
    return logits
