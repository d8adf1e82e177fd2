"""Hugging Face folders of our networks: complete after training, or unpacked from a GGUF file.

vLLM serves such a folder. The weights of a quantised file come out as the float32 values that
llama.cpp computes with, so both engines run the same model.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from training.data.dataset import write_text
from training.errors import ExportError
from training.export.vocabulary import TokenType
from training.tokenizer import GGUF_PRE, LLAMA_BPE_SPLIT

Weights = NDArray[np.float32]

_FIXED = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_tokenizer_files(
    folder: Path, tokenizer: str, *, bos: str | None, eos: str, template: str
) -> None:
    """Write into a folder what turns text into tokens.

    Args:
        folder: Where `config.json` and the weights lie.
        tokenizer: Content of `tokenizer.json`.
        bos: Token that opens a text, None without one.
        eos: Token that ends an answer.
        template: Chat template.
    """
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    write_text(folder / "tokenizer.json", tokenizer)
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
    write_text(folder / "chat_template.jinja", template)


def unpack_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file of ours as a Hugging Face folder in float32; it appears when whole.

    Args:
        path: A Llama network with our kind of tokenizer, quantised or not.
        folder: Must not exist.

    Raises:
        ExportError: If the file is of another kind, or the folder exists.
    """
    if folder.exists():
        raise ExportError(f"{folder} exists already; remove it, or name another folder")
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError) as err:
        raise ExportError(f"{path} is no GGUF file that can be read: {err}") from err
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(path, fields)
    tokenizer = _tokenizer(path, fields)
    tensors = _tensors(path, reader.tensors, config)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_text(scratch / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
        tokens = fields["tokenizer.ggml.tokens"]
        bos = fields.get("tokenizer.ggml.bos_token_id")
        write_tokenizer_files(
            scratch,
            tokenizer.to_str(pretty=True),
            bos=None if bos is None else tokens[bos],
            eos=tokens[fields["tokenizer.ggml.eos_token_id"]],
            template=fields["tokenizer.chat_template"],
        )
        (scratch / "model.safetensors").chmod(0o644)
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def rope_rows_to_halves(weights: Weights, n_heads: int) -> Weights:
    """Undo `training.export.gguf_writer.permute_rope_rows`: from rotated pairs to split halves.

    Args:
        weights: (n_heads * head_dim, columns) float32.
        n_heads: Heads of this matrix: for K the number of key-value heads.
    """
    rows, columns = weights.shape
    pairs = weights.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _config(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise ExportError(f"{path} is a {kind!r} network; only 'llama' is unpacked")
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ExportError(f"{path} scales its positions ({scaling!r}), which is not unpacked")

    def number(name: str) -> Any:
        try:
            return fields[f"llama.{name}"]
        except KeyError as err:
            raise ExportError(f"{path} does not say llama.{name}") from err

    n_heads = number("attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "num_hidden_layers": number("block_count"),
        "max_position_embeddings": number("context_length"),
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", n_heads),
        "head_dim": fields.get("llama.attention.key_length", number("embedding_length") // n_heads),
        # float32 in the file: without rounding, 1e-05 would come out as 9.999999747378752e-06
        "rms_norm_eps": float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(fields.get("llama.rope.freq_base", 10_000.0)),
        },
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
    }


def _tensors(path: Path, tensors: list[Any], config: Mapping[str, Any]) -> dict[str, Weights]:
    unpacked: dict[str, Weights] = {}
    for tensor in tensors:
        name = _name(path, tensor.name)
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if ".q_proj." in name:
            weights = rope_rows_to_halves(weights, config["num_attention_heads"])
        elif ".k_proj." in name:
            weights = rope_rows_to_halves(weights, config["num_key_value_heads"])
        unpacked[name] = np.ascontiguousarray(weights)
    return unpacked


def _name(path: Path, name: str) -> str:
    if name in _FIXED:
        return _FIXED[name]
    head, _, rest = name.removeprefix("blk.").partition(".")
    part = rest.removesuffix(".weight")
    if not head.isdigit() or part not in _BLOCK or not rest.endswith(".weight"):
        raise ExportError(f"{path} has the tensor {name!r}, which this network should not have")
    return f"model.layers.{head}.{_BLOCK[part]}.weight"


def _tokenizer(path: Path, fields: Mapping[str, Any]) -> Tokenizer:
    found = (fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre"))
    if found != ("gpt2", GGUF_PRE):
        raise ExportError(f"{path} has the tokenizer {found}; only ('gpt2', {GGUF_PRE!r}) is known")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != TokenType.USER_DEFINED}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_BPE_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((TokenType.CONTROL, True), (TokenType.USER_DEFINED, False)):
        named = [token for token, its in zip(tokens, types, strict=True) if its == kind]
        tokenizer.add_tokens(
            [AddedToken(token, special=special, normalized=False) for token in named]
        )
    for i, token in enumerate(tokens):
        if tokenizer.token_to_id(token) != i:
            raise ExportError(
                f"{path}: the token {token!r} has the id {i}, and would get "
                f"{tokenizer.token_to_id(token)} in a tokenizer.json"
            )
    return tokenizer
