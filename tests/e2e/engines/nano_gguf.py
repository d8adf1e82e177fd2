"""A tiny Llama with random weights and a byte-level BPE vocabulary, written as GGUF for tests."""

import itertools
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_TEXT = (
    "klk busco una yipeta pa la familia que gaste poco y tenga buen precio el carro esta nuevo "
    "tengo un presupuesto de dos millones de pesos quiero financiamiento con un banco de aqui "
    "la respuesta del vendedor es que hay una toyota del ano pasado con pocos kilometros señor "
    "mañana también camión está rápido "
)


class Shape(NamedTuple):
    """Sizes of the network."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int


SHAPE = Shape(256, 2, 4, 2, 512)
_N_EMBD, _N_LAYER, _N_HEAD, _N_HEAD_KV, _N_FF = SHAPE


def byte_characters() -> dict[int, str]:
    """Return the printable character that byte-level BPE writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | {byte: chr(256 + i) for i, byte in enumerate(others)}


def train_merges(text: str, n_merges: int) -> list[tuple[str, str]]:
    """Return the most frequent pairs, found one after another as BPE does."""
    table = byte_characters()
    words = [[table[b] for b in f" {word}".encode()] for word in text.split()]
    merges = []
    for _ in range(n_merges):
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def write_nano_gguf(
    path: Path,
    *,
    seed: int = 0,
    n_ctx: int = 1024,
    template: str | None = CHAT_TEMPLATE,
    n_unused_tokens: int = 0,
) -> Path:
    """Write the model and return its path; tokens that no text has make it larger."""
    merges = train_merges(_TEXT, 180)
    tokens = [*byte_characters().values(), *("".join(pair) for pair in merges)]
    tokens += [f"unused{i}" for i in range(n_unused_tokens)]
    tokens += SPECIAL
    types = [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    types += [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("nano-random")
    writer.add_block_count(_N_LAYER)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(_N_EMBD)
    writer.add_feed_forward_length(_N_FF)
    writer.add_head_count(_N_HEAD)
    writer.add_head_count_kv(_N_HEAD_KV)
    writer.add_rope_dimension_count(_N_EMBD // _N_HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokens.index("<|begin_of_text|>"))
    writer.add_eos_token_id(tokens.index("<|end_of_text|>"))
    writer.add_eot_token_id(tokens.index("<|eot_id|>"))
    writer.add_add_bos_token(True)
    if template is not None:
        writer.add_chat_template(template)
    _add_weights(writer, len(tokens), np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_weights(writer: gguf.GGUFWriter, n_vocab: int, rng: np.random.Generator) -> None:
    head = _N_EMBD // _N_HEAD

    def matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        values = rng.normal(0, gain / np.sqrt(columns), (rows, columns))
        writer.add_tensor(name, values.astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(_N_EMBD, dtype=np.float32))

    matrix("token_embd.weight", n_vocab, _N_EMBD, gain=16.0)
    norm("output_norm.weight")
    matrix("output.weight", n_vocab, _N_EMBD, gain=2.5)  # logits with a spread, so few near ties
    for i in range(_N_LAYER):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", _N_EMBD, _N_EMBD)
        matrix(f"blk.{i}.attn_k.weight", head * _N_HEAD_KV, _N_EMBD)
        matrix(f"blk.{i}.attn_v.weight", head * _N_HEAD_KV, _N_EMBD)
        matrix(f"blk.{i}.attn_output.weight", _N_EMBD, _N_EMBD)
        matrix(f"blk.{i}.ffn_gate.weight", _N_FF, _N_EMBD)
        matrix(f"blk.{i}.ffn_up.weight", _N_FF, _N_EMBD)
        matrix(f"blk.{i}.ffn_down.weight", _N_EMBD, _N_FF)
