"""Proof that the files are the model that was trained: tokens, logits, chat template, adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from training.errors import ExportError
from training.export.llama_runtime import open_gguf
from training.lora.dataset import Example
from training.lora.encoding import TemplateEncoder
from training.network import sequence_logits

TOLERANCE = 0.03
"""Largest root mean square difference of the logits of a prompt, in their standard deviations.

Measured on small networks: 0.001 to 0.003 between float32 and F16 with its F16 cache, 0.01 where
the network computes in bf16. A wrong permutation or rotation gives 0.3 and more. The mean, because
the largest of millions of differences grows with vocabulary and prompt.
"""
_MAX_PROMPT_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What was compared."""

    n_prompts: int
    n_tokens: int
    logit_difference: float
    """Root mean square over the worst prompt, in standard deviations of the logits."""


def check_parity(
    network: LlamaForCausalLM,
    encoder: TemplateEncoder,
    examples: Sequence[Example],
    model: Path,
    *,
    template: str,
    threads: int,
    adapter: Path | None = None,
) -> Parity:
    """Compare a file with the merged network on real prompts.

    Args:
        network: The merged network, on the CPU.
        encoder: What made the training's tokens.
        examples: Conversations whose prompts are compared.
        model: An F16 or F32 file; with `adapter` that of the base.
        template: Chat template that the file must carry.
        threads: CPU threads.
        adapter: Adapter in GGUF to lay over the file.

    Raises:
        ExportError: If tokens, logits or the chat template differ; the message says where.
    """
    worst, n_tokens, prompts = 0.0, 0, []
    for example in examples:
        turns = example.messages[:-1]
        ids = encoder.prompt_ids(turns)
        if len(ids) <= _MAX_PROMPT_TOKENS:
            prompts.append((turns, ids))
    with open_gguf(model, n_ctx=_MAX_PROMPT_TOKENS, threads=threads, adapter=adapter) as gguf:
        if gguf.chat_template() != template:
            raise ExportError(f"{model.name} carries another chat template than was trained")
        for turns, ids in prompts:
            for turn in turns:
                ours, theirs = encoder.text_ids(turn.content), gguf.tokenize(turn.content)
                if ours != theirs:
                    raise ExportError(
                        f"{model.name} splits {turn.content!r} into {theirs}, trained was {ours}"
                    )
            difference = _difference(gguf.logits(ids), sequence_logits(network, ids).numpy())
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"{model.name}{f' with {adapter.name}' if adapter else ''}: logits differ by "
                    f"{difference:.3f} of their standard deviation, allowed: {TOLERANCE}"
                )
            worst, n_tokens = max(worst, difference), n_tokens + len(ids)
    return Parity(n_prompts=len(prompts), n_tokens=n_tokens, logit_difference=round(worst, 5))


def _difference(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((actual - expected) ** 2)) / expected.std())
