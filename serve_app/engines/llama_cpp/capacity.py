"""How large a context is made: KV cells, sequences, rows."""

import os

from serve_app.config import ModelConfig
from serve_app.engines.llama_cpp.context import MAX_SEQUENCES, ContextSize
from serve_app.engines.llama_cpp.model import Model
from serve_app.errors import ConfigError

_MAX_KV_BYTES = 2 << 30
"""KV memory of one engine at most. Requests share their common start and few use their whole
context, so this is rarely the limit; when it is, the newest request is computed again later."""
_MAX_LOGITS_BYTES = 64 << 20
"""Logits of one step at most; bounds how many rows of an echoed prompt are computed together."""
_THREAD_BYTES = 32 << 20
"""Weights that make one more thread worth while. Measured with 3 MB on two busy cores: 2,876
tokens/s with one thread, 335 with two."""
_KEPT_BESIDE_SLOTS = 4


def context_size(config: ModelConfig, model: Model, *, n_pinned: int = 0) -> ContextSize:
    """Return the capacity for a configuration.

    Full contexts for all slots and one more for kept prefixes, within 2 GiB for all lanes together,
    and always at least one full context.

    Args:
        config: What is loaded.
        model: Its weights.
        n_pinned: Tokens that are in KV memory for good. They come on top, so that they never take
            room from a request.

    Raises:
        ConfigError: If the model was trained for less context than `n_ctx`, or options contradict
            each other.
    """
    if config.llama_cpp.kv_type != "f16" and not config.llama_cpp.flash_attention:
        raise ConfigError(
            f"llama_cpp.kv_type {config.llama_cpp.kv_type!r} needs llama_cpp.flash_attention: true"
        )
    if config.n_ctx > model.n_ctx_train:
        raise ConfigError(
            f"n_ctx is {config.n_ctx}, but {model.path.name!r} was trained with "
            f"{model.n_ctx_train} tokens of context; lower n_ctx"
        )
    options = config.llama_cpp
    affordable = _MAX_KV_BYTES // config.n_lanes // model.kv_token_bytes(options.kv_type)
    wanted = config.n_ctx * (config.n_slots + 1) + n_pinned
    n_cells = max(config.n_ctx + n_pinned, min(wanted, affordable))
    n_kept = kept_sequences(config)
    n_batch = min(options.n_batch, n_cells)
    return ContextSize(
        n_cells=n_cells,
        n_sequences=min(config.n_slots + n_kept + bool(n_pinned), MAX_SEQUENCES),
        n_batch=max(n_batch, config.n_slots),
        n_outputs=output_rows(config, model.n_vocab, n_batch),
    )


def kept_sequences(config: ModelConfig) -> int:
    """Return how many finished sequences are kept for their prefixes."""
    return config.n_slots + _KEPT_BESIDE_SLOTS if config.llama_cpp.prefix_cache else 0


def output_rows(config: ModelConfig, n_vocab: int, n_batch: int) -> int:
    """Return how many rows of a step may have logits: one per slot, or more for small models."""
    affordable = _MAX_LOGITS_BYTES // (4 * n_vocab)
    return max(config.n_slots, min(affordable, n_batch))


def thread_count(n_threads: int | None, model_bytes: int) -> int:
    """Return the configured number of threads, else what the model can use of this process's CPUs.

    A step of a small model is so short that meeting at barriers costs more than a second thread
    brings, all the more beside other processes.
    """
    if n_threads is not None:
        return n_threads
    return max(1, min(len(os.sched_getaffinity(0)), model_bytes // _THREAD_BYTES))
