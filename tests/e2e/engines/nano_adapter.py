"""Random LoRA adapters for the tiny model, written by the project's own exporter."""

from pathlib import Path

import torch
from transformers import LlamaConfig

from tests.e2e.engines.nano_gguf import SHAPE
from training.export.adapter_writer import write_adapter_gguf

_RANK = 8


def write_nano_adapter(path: Path, *, seed: int, strength: float = 3.0) -> Path:
    """Write an adapter over the attention and feed-forward matrices, and return its path."""
    generator = torch.Generator().manual_seed(seed)
    config = LlamaConfig(
        hidden_size=SHAPE.n_embd,
        num_hidden_layers=SHAPE.n_layer,
        num_attention_heads=SHAPE.n_head,
        num_key_value_heads=SHAPE.n_head_kv,
        intermediate_size=SHAPE.n_ff,
    )
    n_kv = SHAPE.n_embd // SHAPE.n_head * SHAPE.n_head_kv
    sides = {
        "self_attn.q_proj": (SHAPE.n_embd, SHAPE.n_embd),
        "self_attn.v_proj": (n_kv, SHAPE.n_embd),
        "mlp.down_proj": (SHAPE.n_embd, SHAPE.n_ff),
    }
    weights = {}
    for layer in range(SHAPE.n_layer):
        for module, (rows, columns) in sides.items():
            key = f"base_model.model.model.layers.{layer}.{module}"
            a = torch.randn(_RANK, columns, generator=generator) / columns**0.5
            b = torch.randn(rows, _RANK, generator=generator) * strength / _RANK**0.5
            weights[f"{key}.lora_A.weight"], weights[f"{key}.lora_B.weight"] = a, b
    write_adapter_gguf(
        weights,
        config,
        path,
        name=f"nano-adapter-{seed}",
        version="1.0.0",
        license_="Apache-2.0",
        alpha=float(_RANK),
        base_name="nano-random",
    )
    return path
