"""The base with its adapter: loaded, run, merged. The adapter to `peft`."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.utils import logging

from training.batches import Batch
from training.errors import MissingExtraError, TrainingError
from training.lora.base import Base
from training.lora.config import AdapterConfig
from training.lora.placement import Placement

try:
    import peft
except ImportError as err:
    raise MissingExtraError("LoRA training", "peft", "training") from err


def load_base(base: Base, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return the base's full weights on the CPU."""
    logging.disable_progress_bar()
    return LlamaForCausalLM.from_pretrained(base.folder, dtype=dtype, local_files_only=True)


def load_for_training(base: Base, adapter: AdapterConfig, where: Placement) -> "peft.PeftModel":
    """Return the frozen base with a fresh adapter, in its place.

    Raises:
        TrainingError: If no module of the base has a name that was asked for.
    """
    if where.quant_backend == "nf4":
        network = peft.prepare_model_for_kbit_training(
            _load_nf4(base), use_gradient_checkpointing=False
        )
    else:
        network = load_base(base, where.dtype).to(where.device)
    targets = adapter.target_modules
    try:
        with _without_its_deprecations():
            return peft.get_peft_model(
                network,
                peft.LoraConfig(
                    r=adapter.rank,
                    lora_alpha=adapter.alpha,
                    lora_dropout=adapter.dropout,
                    target_modules=targets if isinstance(targets, str) else list(targets),
                    bias="none",
                    task_type="CAUSAL_LM",
                ),
            )
    except ValueError as err:
        raise TrainingError(f"No adapter over {base.name!r}: {err}") from err


def adapter_weights(network: "peft.PeftModel") -> dict[str, Tensor]:
    """Return the adapter's tensors by PEFT's names."""
    weights: dict[str, Tensor] = peft.get_peft_model_state_dict(network)
    return weights


def set_adapter_weights(network: "peft.PeftModel", weights: Mapping[str, Tensor]) -> None:
    """Put an adapter's tensors into their places.

    Raises:
        TrainingError: If names differ.
    """
    expected = set(adapter_weights(network))
    if set(weights) != expected:
        other = sorted(expected.symmetric_difference(weights))[:3]
        raise TrainingError(f"The stored adapter has other tensors, for example {other}")
    peft.set_peft_model_state_dict(network, dict(weights))


def merge(base: Base, adapter_dir: Path, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return the base with the adapter added to its full weights, never to quantised ones.

    Raises:
        TrainingError: If the sum is not finite.
    """
    network = load_base(base, dtype)
    with _without_its_deprecations():
        with_adapter = peft.PeftModel.from_pretrained(network, adapter_dir)
    try:
        merged: LlamaForCausalLM = with_adapter.merge_and_unload(safe_merge=True)
    except ValueError as err:
        raise TrainingError(f"The adapter does not merge: {err}") from err
    return merged.eval()


def loss_sum(network: "peft.PeftModel", batch: Batch, where: Placement) -> Tensor:
    """Return the summed cross-entropy over the tokens to learn, in nats."""
    ids = torch.from_numpy(batch.ids).to(where.device)  # (n_conversations, width) int64
    learn = torch.from_numpy(batch.learn).to(where.device)[:, 1:]
    with autocast(where):
        # Padding is on the right: causal attention never looks at it.
        hidden = network.base_model.model.model(ids[:, :-1], use_cache=False).last_hidden_state
        logits = network.base_model.model.lm_head(hidden[learn])  # (n_learnt, n_vocab)
    return functional.cross_entropy(logits.float(), ids[:, 1:][learn], reduction="sum")


def greedy(
    network: "peft.PeftModel",
    prompt: list[int],
    *,
    eos_id: int,
    max_new_tokens: int,
    where: Placement,
) -> list[int]:
    """Return the greedy answer to a prompt, without the token that ends it."""
    ids = torch.tensor([prompt], device=where.device)
    with torch.inference_mode(), autocast(where):
        output = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            # A base's own sampling settings are not for a greedy answer.
            temperature=None,
            top_p=None,
            top_k=None,
        )
    answer: list[int] = output[0, len(prompt) :].tolist()
    return answer[:-1] if answer and answer[-1] == eos_id else answer


def autocast(where: Placement) -> Any:  # torch has no public type for it
    """Return the context in which forward passes run."""
    bf16 = where.dtype is torch.bfloat16
    return torch.autocast(where.device, dtype=torch.bfloat16, enabled=bf16)


@contextmanager
def _without_its_deprecations() -> Iterator[None]:
    """Keep back what transformers tells PEFT about its own use of an old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`is_gradient_checkpointing`", FutureWarning)
        yield


def _load_nf4(base: Base) -> LlamaForCausalLM:
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return LlamaForCausalLM.from_pretrained(
        base.folder,
        quantization_config=quantised,
        dtype=torch.bfloat16,
        device_map={"": 0},
        local_files_only=True,
    )
