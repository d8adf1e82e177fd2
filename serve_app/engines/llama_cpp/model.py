"""An open GGUF file: its weights, its metadata, and the limits they set."""

import ctypes
import threading
from pathlib import Path
from typing import Any

from serve_app.engines.llama_cpp.binding import library
from serve_app.errors import ModelFileError

_META_BYTES = 1 << 20
"""Longest metadata value that is read; chat templates are the long ones."""
_KV_ELEMENT_BYTES = {"f16": 2.0, "q8_0": 34 / 32}


class Model:
    """Weights and metadata of one GGUF file; several engines may share them.

    Args:
        path: The file; its hash has been verified by the caller.
        vocab_only: Read the tokenizer and metadata, not the weights.

    Raises:
        ModelFileError: If llama.cpp cannot load it, or its architecture is not supported.
    """

    def __init__(self, path: Path, *, vocab_only: bool = False) -> None:
        self._lib = library()
        if not path.is_file():
            raise ModelFileError(f"model file {str(path)!r} does not exist")
        params = self._lib.llama_model_default_params()
        params.vocab_only = vocab_only
        self.handle: Any = self._lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelFileError(f"{path.name!r} is no GGUF file that llama.cpp can load")
        self.path = path
        self.decoding = threading.Lock()
        """Held during a decode: engines that share the weights do not fight for the same cores."""
        self.changing = threading.Lock()
        """Held while the model's set of adapters changes."""
        self._n_users = 1
        self.vocab: Any = self._lib.llama_model_get_vocab(self.handle)
        try:
            self._refuse_unsupported()
        except ModelFileError:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Name from the metadata, or the file's."""
        return self.meta("general.name") or self.path.stem

    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._lib.llama_vocab_n_tokens(self.vocab))

    @property
    def n_ctx_train(self) -> int:
        """Longest context the model was trained with, in tokens."""
        return int(self._lib.llama_model_n_ctx_train(self.handle))

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return int(self._lib.llama_model_size(self.handle))

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that came with the model."""
        return self.meta("tokenizer.chat_template")

    def kv_token_bytes(self, kv_type: str) -> int:
        """Return the KV memory of one token over all layers, in bytes."""
        lib, handle = self._lib, self.handle
        n_head = max(1, lib.llama_model_n_head(handle))
        head = lib.llama_model_n_embd(handle) // n_head
        arch = self.meta("general.architecture") or ""
        key = int(self.meta(f"{arch}.attention.key_length") or head)
        value = int(self.meta(f"{arch}.attention.value_length") or head)
        per_layer = lib.llama_model_n_head_kv(handle) * (key + value)
        elements = lib.llama_model_n_layer(handle) * per_layer
        return max(1, int(elements * _KV_ELEMENT_BYTES[kv_type]))

    def meta(self, key: str) -> str | None:
        """Return a scalar of the metadata as text, None if absent."""
        buffer = ctypes.create_string_buffer(1024)
        n = self._lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        if n < 0:
            return None
        if n >= len(buffer):
            if n >= _META_BYTES:
                raise ModelFileError(f"metadata {key!r} has {n} bytes, allowed: {_META_BYTES}")
            buffer = ctypes.create_string_buffer(n + 1)
            self._lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def share(self) -> bool:
        """Become one user more, who closes it as well; False if it has been freed already."""
        with self.changing:
            if not self._n_users:
                return False
            self._n_users += 1
            return True

    def close(self) -> None:
        """Leave it; the last user frees the weights."""
        with self.changing:
            self._n_users -= 1
            if self._n_users == 0:
                self._lib.llama_model_free(self.handle)
                self.handle = None

    def _refuse_unsupported(self) -> None:
        # Sequences are cut and shared at any position; state-space layers, sliding windows and
        # encoders do not allow that.
        lib, handle = self._lib, self.handle
        faults = {
            "a recurrent model": lib.llama_model_is_recurrent(handle),
            "a hybrid model": lib.llama_model_is_hybrid(handle),
            "a model with an encoder": lib.llama_model_has_encoder(handle),
            "a sliding-window model": lib.llama_model_n_swa(handle) > 0,
        }
        for what, present in faults.items():
            if present:
                raise ModelFileError(
                    f"{self.path.name!r} is {what}; the llama_cpp engine serves decoder models "
                    "with plain attention"
                )
