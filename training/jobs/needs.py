"""How much disk and memory a training will take: estimates on the safe side, told with numbers."""

from training.config import TrainConfig

_FLOAT_BYTES = 4
_BYTES_PER_CONVERSATION = 4_000
"""A written conversation with its answer is 1-3 kB."""
_PACKED_BYTES = 400
"""A conversation in `training_set.npz`; a message takes a sixteenth."""
_BYTES_PER_MESSAGE = 600
"""A single message while it is encoded and packed; measured."""
_LIBRARIES_BYTES = 900 << 20
"""torch, transformers and llama.cpp, loaded; measured 0.6-0.8 GiB."""
_DISK_MARGIN_BYTES = 200 << 20


def n_parameters(config: TrainConfig) -> int:
    """Return the number of weights of the network."""
    shape = config.model
    kv_width = shape.head_dim * shape.n_kv_heads
    attention = 2 * shape.hidden_size * (shape.hidden_size + kv_width)
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size + 2 * shape.hidden_size
    n_vectors = config.tokenizer.vocab_size * (1 if shape.tie_embeddings else 2)
    return (n_vectors + 1) * shape.hidden_size + shape.n_layers * layer


def disk_bytes(config: TrainConfig) -> int:
    """Return the disk space of the work folder when everything is in it.

    Checkpoints hold weights and two moments, and the new one is written beside the old one; then
    there are the network, the full and the quantised GGUF.
    """
    copies = 2 * 3 + 1 + 1 + 1
    data = config.data.n_train * _BYTES_PER_CONVERSATION
    data += config.data.n_train * _PACKED_BYTES + config.optim.n_phrases * _PACKED_BYTES // 16
    return copies * n_parameters(config) * _FLOAT_BYTES + data + _DISK_MARGIN_BYTES


def memory_bytes(config: TrainConfig) -> int:
    """Return the memory at the peak: weights, gradients, moments, activations, data.

    Of the machine, not of a GPU: where one trains, it holds everything but the data.
    """
    shape, optim = config.model, config.optim
    weights = 4 * n_parameters(config) * _FLOAT_BYTES
    tokens = optim.batch_size * optim.max_tokens
    # Logits, their softmax and its gradient; about 16 activations as wide as the network a layer.
    logits = 3 * tokens * config.tokenizer.vocab_size * _FLOAT_BYTES
    width = 16 * shape.hidden_size + 3 * shape.intermediate_size
    activations = tokens * shape.n_layers * width * _FLOAT_BYTES
    n_conversations = config.data.n_train + optim.n_given_intents
    data = 2 * n_conversations * _BYTES_PER_CONVERSATION + optim.n_phrases * _BYTES_PER_MESSAGE
    if config.device == "cuda":
        return _LIBRARIES_BYTES + 2 * n_parameters(config) * _FLOAT_BYTES + data
    return _LIBRARIES_BYTES + weights + logits + activations + data
