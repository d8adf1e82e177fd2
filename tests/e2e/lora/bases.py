"""Tiny bases as Hugging Face lays them out: random weights, a trained tokenizer, a template."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from training.tokenizer import LLAMA_BPE_SPLIT, SPECIAL_TOKENS

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_WORDS = (
    "klk busco una yipeta pa la familia ¿cuánto cuesta la Hilux 2020? precio financiamiento "
    'inicial cuota visita mañana {"intent":"saludo","response":"¡Hola!"} gracias dime a ver '
    "system user assistant carro motor guagua Santiago Santo Domingo RD$1,350,000 millas"
)


def split_of(pre: str) -> tuple[Any, bool]:
    """Return a pre-tokenizer and `ignore_merges` that llama.cpp knows under a name."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    qwen2 = LLAMA_BPE_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
    parts = {
        "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA_BPE_SPLIT), "isolated"), byte_level],
        "dbrx": [pre_tokenizers.Split(Regex(LLAMA_BPE_SPLIT), "isolated"), byte_level],
        "qwen2": [pre_tokenizers.Split(Regex(qwen2), "isolated"), byte_level],
        "gpt-2": [gpt2],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2],
    }[pre]
    return pre_tokenizers.Sequence(parts), pre == "llama-bpe"


def a_tokenizer(pre: str = "llama-bpe", special: Sequence[str] = SPECIAL) -> Tokenizer:
    pre_tokenizer, ignore_merges = split_of(pre)
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def write_base(folder: Path, *, pre: str = "llama-bpe", ours: bool = False, **shape: Any) -> Path:
    """Write a base; `ours` is one with the profile's tokens and without a template."""
    folder.mkdir(parents=True)
    tokenizer = a_tokenizer(pre, SPECIAL_TOKENS if ours else SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    if not ours:
        settings = {"bos_token": None, "eos_token": "<|im_end|>", "chat_template": CHATML}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(3)
    config = LlamaConfig(
        **{
            "vocab_size": 512,  # more than the tokenizer has, as in many bases
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
            "rope_parameters": LLAMA3_ROPE,
            "bos_token_id": 0,
            "eos_token_id": 2,
            **shape,
        }
    )
    network = LlamaForCausalLM(config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            # Initial weights give logits near zero, where a wrong permutation would go unseen.
            parameter.data.mul_(3)
    network.save_pretrained(folder)
    return folder


INTENTS = ("saludo", "consultar_precio", "despedida")


def write_dataset(folder: Path, *, n_train: int = 24, n_dev: int = 6) -> Path:
    folder.mkdir(parents=True)
    for split, n in (("train", n_train), ("dev", n_dev)):
        lines = [json.dumps(_conversation(split, i), ensure_ascii=False) for i in range(n)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _conversation(split: str, i: int) -> dict[str, Any]:
    intent = INTENTS[i % len(INTENTS)]
    answer = json.dumps({"intent": intent, "response": "¡Hola!"}, separators=(",", ":"))
    messages = [
        {"role": "user", "content": f"{split} klk, ¿precio {i}? <|im_end|>"},
        {"role": "assistant", "content": answer},
    ]
    if i % 4 == 0:
        messages = [{"role": "user", "content": "hola"}, messages[1], *messages]
    return {
        "id": f"{split}-{i}",
        "intent": intent,
        "register": "street" if i % 2 else "formal",
        "family": f"{split}-{i}",
        "messages": messages,
    }


def _corpus() -> Iterator[str]:
    yield from [_WORDS] * 50
