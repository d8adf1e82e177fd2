"""The Llama network: built, run with a shared system prompt, saved."""

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from training.batches import Batch
from training.config import BaseConfig, TrainConfig
from training.errors import TrainingError


def make_deterministic(seed: int, threads: int) -> None:
    """Seed torch and refuse operations whose result depends on scheduling."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


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


def save_network(network: LlamaForCausalLM, folder: Path) -> None:
    """Write the network as a Hugging Face folder (safetensors)."""
    network.save_pretrained(folder)


def batch_loss(network: LlamaForCausalLM, batch: Batch, *, prefix: tuple[int, ...]) -> Tensor:
    """Return the summed cross-entropy over the tokens to learn, in nats.

    The system prompt opens every conversation, so it runs once for the whole batch and its keys and
    values are shared. Gradients flow through the shared part: the same function, in less time.

    Args:
        network: The network.
        batch: Padded conversations.
        prefix: What all of them begin with.
    """
    device = network.device
    ids = torch.tensor(batch.ids, device=device)  # (n_conversations, width) int64
    learn = torch.tensor(batch.learn, device=device)
    n_prefix = len(prefix)
    opening = torch.tensor([prefix], device=device)
    shared = network.model(opening, past_key_values=DynamicCache(), use_cache=True)
    cache = shared.past_key_values
    cache.batch_repeat_interleave(len(ids))
    inputs, targets = ids[:, n_prefix:-1], ids[:, n_prefix + 1 :]
    positions = torch.arange(n_prefix, n_prefix + inputs.shape[1], device=device).unsqueeze(0)
    hidden = network.model(inputs, past_key_values=cache, position_ids=positions).last_hidden_state
    chosen = learn[:, n_prefix + 1 :]
    # Whatever the products' precision, probabilities are summed in float32.
    logits = network.lm_head(hidden[chosen]).float()  # (n_learnt, n_vocab)
    return functional.cross_entropy(logits, targets[chosen], reduction="sum")


def count_learnt(batch: Batch) -> int:
    """Return how many tokens of a batch are learnt."""
    return sum(map(sum, batch.learn))


def sequence_logits(network: LlamaForCausalLM, ids: list[int]) -> Tensor:
    """Return the logits of one sequence, (n_tokens, n_vocab) float32."""
    with torch.inference_mode():
        logits: Tensor = network(torch.tensor([ids])).logits[0].float()
    return logits
