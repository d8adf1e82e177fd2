"""Writes a Llama network and its tokenizer as a GGUF file for llama.cpp."""

import json
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from training.contract import chat_template
from training.errors import ExportError
from training.tokenizer import BOS, EOT, GGUF_PRE, SPECIAL_TOKENS, special_id

Weights = NDArray[np.float32]


def write_gguf(
    network: LlamaForCausalLM,
    tokenizer: Tokenizer,
    path: Path,
    *,
    name: str,
    version: str,
    half: bool = False,
) -> None:
    """Write a network in F32 or F16, norms always in F32.

    Args:
        network: A Llama network with tied embeddings and no biases.
        tokenizer: Its tokenizer.
        path: The file to write.
        name: Model name, stored in the file.
        version: Semantic version, stored in the file.
        half: Write matrices in F16.

    Raises:
        ExportError: If the format does not know a tensor, or the embeddings are not tied.
    """
    if not network.config.tie_word_embeddings:
        raise ExportError("Only networks with tied embeddings are exported")
    if network.config.vocab_size != tokenizer.get_vocab_size():
        n_network, n_tokenizer = network.config.vocab_size, tokenizer.get_vocab_size()
        raise ExportError(f"The network has {n_network} tokens, the tokenizer {n_tokenizer}")
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, network, name=name, version=version, half=half)
    _add_tokenizer(writer, tokenizer)
    _add_tensors(writer, network, half=half)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute_rope_rows(weights: Weights, n_heads: int) -> Weights:
    """Reorder the rows of Q or K from split halves to the pairs that llama.cpp rotates.

    Args:
        weights: (n_heads * head_dim, n_embd) float32.
        n_heads: Heads of this matrix: for K the number of key-value heads.
    """
    rows, columns = weights.shape
    halves = weights.reshape(n_heads, 2, rows // n_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _add_metadata(
    writer: gguf.GGUFWriter, network: LlamaForCausalLM, *, name: str, version: str, half: bool
) -> None:
    config = network.config
    writer.add_type("model")
    writer.add_name(name)
    writer.add_version(version)
    writer.add_license("Apache-2.0")
    writer.add_languages(["es"])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    types = [
        gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL
        for token in tokens
    ]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(GGUF_PRE)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(special_id(tokenizer, BOS))
    writer.add_eos_token_id(special_id(tokenizer, EOT))
    writer.add_eot_token_id(special_id(tokenizer, EOT))
    # The template writes the only BOS: a second one would be a prompt the model never saw.
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template())


def _add_tensors(writer: gguf.GGUFWriter, network: LlamaForCausalLM, *, half: bool) -> None:
    config = network.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in network.state_dict().items():
        if key == "lm_head.weight":
            continue  # tied: llama.cpp uses token_embd.weight where output.weight is absent
        target = names.get_name(key, try_suffixes=(".weight",))
        if target is None:
            raise ExportError(f"GGUF has no name for the tensor {key!r}")
        weights: Weights = tensor.detach().float().numpy()
        for projection, n_heads in heads.items():
            if f".{projection}." in key:
                weights = permute_rope_rows(weights, n_heads)
        weights = np.ascontiguousarray(weights)
        as_half = half and weights.ndim > 1
        writer.add_tensor(target, weights.astype(np.float16) if as_half else weights)
