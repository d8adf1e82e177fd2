"""llama.cpp as a judge: tokens, logits, greedy replies, quantisation. The adapter to `llama_cpp`.

Serving has its own engine; this one runs one sequence at a time, to check files and measure models.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import ArtefactError, ExportError, MissingExtraError

try:
    import llama_cpp
except ImportError as err:
    raise MissingExtraError("Checking GGUF files", "llama-cpp-python", "cpu") from err


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes callback
def _silence(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Drop llama.cpp's log lines: results are checked, not read."""


class GgufModel:
    """A GGUF file opened in llama.cpp on the CPU, with one context."""

    def __init__(
        self, path: Path, *, n_ctx: int = 1024, threads: int = 2, adapter: Path | None = None
    ) -> None:
        """Open a file, with an adapter over it or without; `open_gguf` fits a `with` block."""
        if not path.is_file():
            raise ArtefactError(f"There is no model file {str(path)!r}")
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise ArtefactError(f"llama.cpp cannot load {str(path)!r}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise ArtefactError(f"llama.cpp cannot make a context for {str(path)!r}")
        if adapter is not None:
            self._lay_over(adapter)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx = n_ctx

    def chat_template(self) -> str | None:
        """Return the chat template that the file carries."""
        template: bytes | None = llama_cpp.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode()

    def close(self) -> None:
        """Free context and weights; an adapter goes with the weights."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of a text, without adding any."""
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), buffer, room, False, parse_special
        )
        return list(buffer[:count])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; special ones are left out."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        room = 64 * (len(ids) + 1)
        buffer = ctypes.create_string_buffer(room)
        count = llama_cpp.llama_detokenize(
            self._vocab, tokens, len(ids), buffer, room, False, False
        )
        if count < 0:
            raise ArtefactError(f"{len(ids)} tokens need {-count} bytes of text")
        return buffer.raw[:count].decode(errors="replace")

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after every token of one sequence, (n_tokens, n_vocab) float32."""
        self._clear()
        self._decode(ids, 0, all_logits=True)
        return np.stack([self._row(i) for i in range(len(ids))])

    def generate(self, ids: Sequence[int], *, stop: int, max_tokens: int) -> list[int]:
        """Return the greedy continuation, without the stop token.

        Args:
            ids: The prompt.
            stop: Token that ends the reply.
            max_tokens: Longest reply; a longer one is cut there.
        """
        self._clear()
        self._decode(ids, 0)
        reply: list[int] = []
        while len(reply) < max_tokens:
            token = int(self._row(-1).argmax())
            if token == stop:
                break
            reply.append(token)
            self._decode([token], len(ids) + len(reply) - 1)
        return reply

    def _lay_over(self, adapter: Path) -> None:
        if not adapter.is_file():
            raise ArtefactError(f"There is no adapter file {str(adapter)!r}")
        loaded = llama_cpp.llama_adapter_lora_init(self._model, str(adapter).encode())
        if not loaded:
            raise ArtefactError(f"llama.cpp cannot lay {str(adapter)!r} over this base")
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded)
        if status := llama_cpp.llama_set_adapters_lora(
            self._context, adapters, 1, (ctypes.c_float * 1)(1.0)
        ):
            raise ArtefactError(f"llama_set_adapters_lora returned {status}")

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def _row(self, index: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).copy()

    def _decode(self, ids: Sequence[int], start: int, *, all_logits: bool = False) -> None:
        if start + len(ids) > self.n_ctx:
            raise ValueError(f"{start + len(ids)} tokens do not fit into a context of {self.n_ctx}")
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i] = token, start + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = all_logits or i == len(ids) - 1
            if status := llama_cpp.llama_decode(self._context, batch):
                raise ArtefactError(f"llama_decode returned {status}")
        finally:
            llama_cpp.llama_batch_free(batch)


@contextmanager
def open_gguf(
    path: Path, *, n_ctx: int = 1024, threads: int = 2, adapter: Path | None = None
) -> Iterator[GgufModel]:
    """Open a GGUF file for the length of a `with` block.

    Args:
        path: The model.
        n_ctx: Longest sequence, in tokens.
        threads: CPU threads.
        adapter: A LoRA adapter in GGUF to lay over it at its full scale.

    Raises:
        ArtefactError: If a file is missing or llama.cpp refuses it.
    """
    model = GgufModel(path, n_ctx=n_ctx, threads=threads, adapter=adapter)
    try:
        yield model
    finally:
        model.close()


def quantise_q4_k_m(source: Path, target: Path, *, threads: int = 2) -> None:
    """Quantise an F32 or F16 file with llama.cpp's own Q4_K_M recipe.

    Raises:
        ExportError: If llama.cpp reports a failure.
    """
    llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    params.nthread = threads
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    if status:
        raise ExportError(f"llama_model_quantize returned {status} for {str(source)!r}")
