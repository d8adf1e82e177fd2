"""Writes a Llama network and its tokenizer as a GGUF file for llama.cpp."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from training.errors import ExportError
from training.export.vocabulary import GgufVocabulary, profile_vocabulary

Weights = NDArray[np.float32]

_LARGEST_HALF = float(np.finfo(np.float16).max)

OUR_LICENSE = "Apache-2.0"
ROPE_TYPES = ("default", "linear", "llama3")
"""Kinds of rotary embedding that are written; others would give other positions."""


def write_gguf(
    network: LlamaForCausalLM,
    tokenizer: Tokenizer,
    path: Path,
    *,
    name: str,
    version: str,
    half: bool = False,
) -> None:
    """Write a network of ours in F32 or F16, with the profile's chat template.

    Args:
        network: A Llama network without biases.
        tokenizer: Its tokenizer.
        path: The file to write.
        name: Model name, stored in the file.
        version: Semantic version, stored in the file.
        half: Write matrices in F16.

    Raises:
        ExportError: If the format does not know a tensor, or vocabularies do not fit.
    """
    vocabulary = profile_vocabulary(tokenizer)
    write_network(
        network, vocabulary, path, name=name, version=version, license_=OUR_LICENSE, half=half
    )


def write_network(
    network: LlamaForCausalLM,
    vocabulary: GgufVocabulary,
    path: Path,
    *,
    name: str,
    version: str,
    license_: str,
    half: bool,
) -> None:
    """Write any network of the Llama family, norms always in F32; the file appears when whole.

    Args:
        network: A Llama network without biases, on the CPU.
        vocabulary: Its tokenizer and chat template.
        path: The file to write.
        name: Model name, stored in the file.
        version: Semantic version, stored in the file.
        license_: SPDX name, stored in the file.
        half: Write matrices in F16.

    Raises:
        ExportError: If the format does not know a tensor, a weight is beyond F16, the positions are
            of a kind that is not written, or vocabularies do not fit.
    """
    n_network, n_tokens = network.config.vocab_size, len(vocabulary.tokens)
    if n_network != n_tokens:
        raise ExportError(f"The network has {n_network} tokens, the tokenizer {n_tokens}")
    temporary = path.with_suffix(".tmp")
    writer = gguf.GGUFWriter(temporary, "llama")
    try:
        writer.add_type("model")
        writer.add_name(name)
        writer.add_version(version)
        writer.add_license(license_)
        writer.add_languages(["es"])
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
        _add_shape(writer, network.config)
        _add_vocabulary(writer, vocabulary)
        for target, weights in _tensors(network):
            writer.add_tensor(target, _as_half(target, weights) if half else weights)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def permute_rope_rows(weights: Weights, n_heads: int) -> Weights:
    """Reorder the rows of Q or K from split halves to the pairs that llama.cpp rotates.

    Args:
        weights: (n_heads * head_dim, columns) float32.
        n_heads: Heads of this matrix: for K the number of key-value heads.
    """
    rows, columns = weights.shape
    halves = weights.reshape(n_heads, 2, rows // n_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def rotated_heads(config: LlamaConfig, key: str) -> int | None:
    """Return the heads of a matrix whose rows `permute_rope_rows` reorders, None for others.

    Args:
        config: Shape of the network.
        key: Name of the tensor in the network.
    """
    if ".q_proj." in key:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in key else None


def rope_factors(rope: dict[str, Any], head_dim: int) -> Weights:
    """Return by what each frequency of Llama 3's long context is divided, (head_dim / 2,) float32.

    Short waves stay, long ones are stretched by `factor`, those between are interpolated, as in
    `transformers.modeling_rope_utils`.

    Args:
        rope: `rope_parameters` of the network's configuration.
        head_dim: Width of one head.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    wave_lengths = 2 * math.pi * float(rope["rope_theta"]) ** exponents
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    smooth = np.clip((original / wave_lengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / float(rope["factor"]) + smooth)).astype(np.float32)


def _add_shape(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    match kind := rope.get("rope_type", "default"):
        case "default":
            pass
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "llama3":
            writer.add_tensor("rope_freqs.weight", rope_factors(rope, config.head_dim))
        case _:
            raise ExportError(f"rope_type {kind!r} is not exported; allowed: {ROPE_TYPES}")


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.bos_id is not None:
        writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_eot_token_id(vocabulary.eos_id)
    # The template writes the only BOS: a second one would be a prompt the model never saw.
    writer.add_add_bos_token(False)
    writer.add_chat_template(vocabulary.chat_template)


def _tensors(network: LlamaForCausalLM) -> Iterator[tuple[str, Weights]]:
    config = network.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, tensor in network.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp uses token_embd.weight where output.weight is absent
        target = names.get_name(key, try_suffixes=(".weight",))
        if target is None:
            raise ExportError(f"GGUF has no name for the tensor {key!r}")
        weights: Weights = tensor.detach().float().numpy()
        if n_heads := rotated_heads(config, key):
            weights = permute_rope_rows(weights, n_heads)
        yield target, np.ascontiguousarray(weights)


def _as_half(name: str, weights: Weights) -> NDArray[Any]:
    if weights.ndim == 1:
        return weights
    largest = float(np.abs(weights).max())
    if not largest <= _LARGEST_HALF:  # also where it is not a number
        raise ExportError(f"The tensor {name!r} has the value {largest}, which F16 cannot hold")
    return weights.astype(np.float16)
