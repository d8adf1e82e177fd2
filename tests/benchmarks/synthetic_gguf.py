"""Models of real shapes with random weights, for speed only.

    python -m tests.benchmarks.synthetic_gguf 1b

prints the path of the file, making it when it is not there yet. The shape, the mix of quantised
formats (Q4_K_M's) and the tokenizer (Llama 3's, from llama-cpp-python's source distribution) are
those of real models, so every step costs what it costs there; what the model says is noise. The
same seed gives the same file.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import gguf
import numpy as np

from cluster.terminal_progress import Progress
from tests.benchmarks.cache import bench_cache, exclusive
from tests.benchmarks.gguf_metadata import Entry, read_metadata
from tests.benchmarks.quantised_blocks import q4_k, q6_k
from tests.benchmarks.source import source_tree

FORMAT = 1
"""Part of the name of cached files; a new number makes them again."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

_LOGIT_STD = 2.5
_Q4, _Q6 = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
_BYTES = {kind: gguf.GGML_QUANT_SIZES[kind] for kind in (_Q4, _Q6)}  # (weights, bytes) per block


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What makes one Llama as large as another."""

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    tied: bool
    context: int = 8192


SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(name="nano", width=256, layers=2, heads=4, kv_heads=2, ff=512, tied=True),
        Shape(name="1b", width=2048, layers=16, heads=32, kv_heads=8, ff=8192, tied=True),
        Shape(name="8b", width=4096, layers=32, heads=32, kv_heads=8, ff=14336, tied=False),
    )
}
"""Llama 3.2 1B and Llama 3.1 8B; `nano` shows in seconds that everything fits together."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One matrix to write, or a vector of ones (`kind` None)."""

    name: str
    rows: int
    columns: int
    kind: gguf.GGMLQuantizationType | None
    std: float = 0.0


def tensors(shape: Shape, n_vocab: int) -> Iterator[Tensor]:
    """Yield what a model consists of, in Q4_K_M's mix.

    Every matrix keeps the size of what it multiplies (std 1 / sqrt(columns)), so activations
    neither explode nor vanish whatever the depth.
    """

    def matrix(name: str, rows: int, columns: int, *, fine: bool = False) -> Tensor:
        return Tensor(name, rows, columns, _Q6 if fine else _Q4, columns**-0.5)

    kv_width = shape.width // shape.heads * shape.kv_heads
    yield matrix("token_embd.weight", n_vocab, shape.width, fine=shape.tied)
    if not shape.tied:
        yield matrix("output.weight", n_vocab, shape.width, fine=True)
    # The logits get their spread from the last norm: greedy choices are then no near ties.
    yield Tensor("output_norm.weight", 1, shape.width, None, _LOGIT_STD)
    for i in range(shape.layers):
        fine = gets_more_bits(i, shape.layers)
        yield Tensor(f"blk.{i}.attn_norm.weight", 1, shape.width, None, 1.0)
        yield Tensor(f"blk.{i}.ffn_norm.weight", 1, shape.width, None, 1.0)
        yield matrix(f"blk.{i}.attn_q.weight", shape.width, shape.width)
        yield matrix(f"blk.{i}.attn_k.weight", kv_width, shape.width)
        yield matrix(f"blk.{i}.attn_v.weight", kv_width, shape.width, fine=fine)
        yield matrix(f"blk.{i}.attn_output.weight", shape.width, shape.width)
        yield matrix(f"blk.{i}.ffn_gate.weight", shape.ff, shape.width)
        yield matrix(f"blk.{i}.ffn_up.weight", shape.ff, shape.width)
        yield matrix(f"blk.{i}.ffn_down.weight", shape.width, shape.ff, fine=fine)


def gets_more_bits(layer: int, n_layers: int) -> bool:
    """Return whether Q4_K_M writes this layer's V and down matrices in Q6_K."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def parameters(shape: Shape, n_vocab: int) -> int:
    """Return how many weights a model has."""
    return sum(tensor.rows * tensor.columns for tensor in tensors(shape, n_vocab))


def write(path: Path, shape: Shape, vocabulary: Mapping[str, Entry], *, seed: int = 0) -> Path:
    """Write a model; it appears when it is whole.

    Args:
        path: The file.
        shape: Its size.
        vocabulary: Metadata of a GGUF file, of which the `tokenizer.` part is taken over.
        seed: Source of the weights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(descriptor)
    writer = gguf.GGUFWriter(scratch, "llama")
    try:
        n_vocab = len(vocabulary["tokenizer.ggml.tokens"].value)
        _add_metadata(writer, shape, n_vocab)
        for key, entry in vocabulary.items():
            if key.startswith("tokenizer."):
                writer.add_key_value(key, entry.value, entry.type, entry.item_type)
        if "tokenizer.chat_template" not in vocabulary:
            writer.add_chat_template(CHAT_TEMPLATE)
        _write_weights(
            writer, list(tensors(shape, n_vocab)), seed, Progress(f"Writing {path.name}")
        )
        writer.close()
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)
    return path


def cached(name: str, *, seed: int = 0) -> Path:
    """Return the file of a shape, made once per machine.

    Raises:
        ValueError: If there is no such shape.
        PeerError: If llama-cpp-python's source, which has the tokenizer, cannot be fetched.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}")
    source = source_tree() / "vendor/llama.cpp/models/ggml-vocab-llama-bpe.gguf"
    identity = {
        "format": FORMAT,
        "seed": seed,
        "shape": asdict(SHAPES[name]),
        "tokenizer": hashlib.sha256(source.read_bytes()).hexdigest(),
        "template": CHAT_TEMPLATE,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = bench_cache() / "models" / f"random-{name}-Q4_K_M-{digest}.gguf"
    with exclusive(path.with_suffix(".lock")):
        return (
            path if path.exists() else write(path, SHAPES[name], read_metadata(source), seed=seed)
        )


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape, n_vocab: int) -> None:
    writer.add_name(f"random {shape.name}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(n_vocab)


def _write_weights(
    writer: gguf.GGUFWriter, wanted: list[Tensor], seed: int, progress: Progress
) -> None:
    for tensor in wanted:
        if tensor.kind is None:
            size = 4 * tensor.columns
            writer.add_tensor_info(tensor.name, (tensor.columns,), np.dtype(np.float32), size)
            continue
        per_block, block_bytes = _BYTES[tensor.kind]
        row_bytes = tensor.columns // per_block * block_bytes
        writer.add_tensor_info(
            tensor.name,
            (tensor.rows, row_bytes),
            np.dtype(np.uint8),
            tensor.rows * row_bytes,
            raw_dtype=tensor.kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    streams = np.random.SeedSequence(seed).spawn(len(wanted))
    for done, (tensor, stream) in enumerate(zip(wanted, streams, strict=True)):
        progress.update(done, len(wanted))
        writer.write_tensor_data(_weights(tensor, np.random.default_rng(stream)))
    progress.finish(f"Wrote {len(wanted)} tensors")


def _weights(tensor: Tensor, rng: np.random.Generator) -> np.ndarray:
    if tensor.kind is None:
        return np.full(tensor.columns, tensor.std, dtype=np.float32)
    make = q4_k if tensor.kind is _Q4 else q6_k
    return make(rng, tensor.rows, tensor.columns, tensor.std)


def main() -> None:
    """Make a model and print its path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.stdout.write(f"{cached(options.shape, seed=options.seed)}\n")


if __name__ == "__main__":
    main()
