"""The llama.cpp context: its KV memory, its batch arrays, and the decode call.

Everything that llama.cpp would abort the process for (an oversized batch, a sequence id out of
range, logits of a row that has none) is checked here first.
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.adapter import Adapter
from serve_app.engines.llama_cpp.binding import library
from serve_app.engines.llama_cpp.model import Model
from serve_app.errors import ModelFileError

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ: sequence ids are 0..255."""


class ContextSize(NamedTuple):
    """How much one context holds."""

    n_cells: int
    """KV cells over all sequences, in tokens."""
    n_sequences: int
    n_batch: int
    """Rows per decode at most."""
    n_outputs: int
    """Rows with logits per decode at most."""


class Rows(NamedTuple):
    """Consecutive tokens of one sequence, as part of a batch."""

    seq_id: int
    start: int
    """Position of the first token."""
    tokens: list[int]
    outputs: int
    """How many of the last rows get logits, without those that are quiet."""
    quiet: tuple[int, ...] = ()
    """Places of rows that get none in between."""


class Context:
    """One `llama_context` with unified KV. Only the engine thread may use it.

    Args:
        model: Open weights.
        size: Capacity.
        n_threads: CPU threads of a decode.
        kv_type: Element type of the KV memory.
        flash_attention: Needed for a quantised V cache, and what makes unified KV cheap.
    """

    def __init__(
        self,
        model: Model,
        size: ContextSize,
        *,
        n_threads: int,
        kv_type: str,
        flash_attention: bool,
    ) -> None:
        if size.n_sequences > MAX_SEQUENCES:
            raise ValueError(f"{size.n_sequences} sequences, llama.cpp allows {MAX_SEQUENCES}")
        lib = library()
        self._lib = lib
        self._decoding = model.decoding
        params = lib.llama_context_default_params()
        params.n_ctx = size.n_cells
        params.n_batch = params.n_ubatch = size.n_batch
        params.n_outputs_max = size.n_outputs
        params.n_seq_max = size.n_sequences
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = True
        params.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if flash_attention
            else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = (
            lib.GGML_TYPE_F16 if kv_type == "f16" else lib.GGML_TYPE_Q8_0
        )
        params.no_perf = True
        self.handle: Any = lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise ModelFileError(
                f"llama.cpp cannot make a context for {model.path.name!r} with "
                f"{size.n_cells} KV tokens of type {kv_type!r}: lower n_ctx or n_slots"
            )
        self._memory: Any = lib.llama_get_memory(self.handle)
        self.n_cells = int(lib.llama_n_ctx(self.handle))
        self.n_batch = int(lib.llama_n_batch(self.handle))
        self.n_outputs = size.n_outputs
        self.n_sequences = size.n_sequences
        self.n_vocab = int(lib.llama_vocab_n_tokens(model.vocab))
        self._batch = _BatchArrays(lib, self.n_batch)

    def lay(self, adapter: Adapter) -> None:
        """Compute with an adapter from now on. Only before the first decode: KV depends on it.

        Raises:
            ModelFileError: If llama.cpp refuses.
        """
        lib = self._lib
        handles = (lib.llama_adapter_lora_p_ctypes * 1)(adapter.handle)
        scales = (ctypes.c_float * 1)(adapter.scale)
        if lib.llama_set_adapters_lora(self.handle, handles, 1, scales) != 0:
            raise ModelFileError(f"llama.cpp cannot use the adapter {adapter.name!r}")

    def decode(self, parts: list[Rows]) -> int:
        """Compute the rows and return llama.cpp's code: 0 done, 1 no KV, others are failures.

        Args:
            parts: Rows by sequence; logits come in the order of the rows that ask for them.

        Raises:
            ValueError: If the batch is empty or larger than the context allows.
        """
        n_rows = sum(len(part.tokens) for part in parts)
        n_outputs = sum(part.outputs for part in parts)
        if not 0 < n_rows <= self.n_batch or n_outputs > self.n_outputs:
            raise ValueError(
                f"batch of {n_rows} rows, {n_outputs} outputs; "
                f"allowed: {self.n_batch} rows, {self.n_outputs} outputs"
            )
        for part in parts:
            self._check_sequence(part.seq_id)
        self._batch.fill(parts, n_rows)
        with self._decoding:
            return int(self._lib.llama_decode(self.handle, self._batch.struct))

    def logits(self, n_outputs: int) -> NDArray[np.float32]:
        """Return the logits of the last decode, (n_outputs, n_vocab); valid until the next one."""
        pointer = self._lib.llama_get_logits(self.handle)
        if not pointer:
            raise RuntimeError("llama.cpp returned no logits")
        array: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(n_outputs, self.n_vocab))
        return array

    def share(self, source: int, target: int, n_tokens: int) -> None:
        """Let `target` begin with the first tokens of `source`, without copying memory."""
        self._check_sequence(source)
        self._check_sequence(target)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens)

    def cut(self, seq_id: int, n_tokens: int) -> None:
        """Drop all of a sequence's KV from position `n_tokens` on."""
        self._check_sequence(seq_id)
        self._lib.llama_memory_seq_rm(self._memory, seq_id, n_tokens, -1)

    def length(self, seq_id: int) -> int:
        """Return the number of tokens that a sequence has in KV memory."""
        self._check_sequence(seq_id)
        return int(self._lib.llama_memory_seq_pos_max(self._memory, seq_id)) + 1

    def close(self) -> None:
        """Free the context. Idempotent; the model must be closed after it."""
        if self.handle:
            self._lib.llama_free(self.handle)
            self.handle = None

    def _check_sequence(self, seq_id: int) -> None:
        if not 0 <= seq_id < self.n_sequences:
            raise ValueError(f"sequence {seq_id!r}; allowed: 0..{self.n_sequences - 1}")


class _BatchArrays:
    """numpy arrays laid under a `llama_batch`, so that a batch is filled without Python loops."""

    def __init__(self, lib: Any, n_batch: int) -> None:  # the ctypes module
        self._tokens = np.zeros(n_batch, dtype=np.int32)
        self._positions = np.zeros(n_batch, dtype=np.int32)
        self._seq_ids = np.zeros(n_batch, dtype=np.int32)
        self._outputs = np.zeros(n_batch, dtype=np.int8)
        self._ones = np.ones(n_batch, dtype=np.int32)
        # one pointer per row, each to that row's single sequence id
        base = self._seq_ids.ctypes.data
        self._pointers = base + 4 * np.arange(n_batch, dtype=np.uint64)
        int32_p = ctypes.POINTER(ctypes.c_int32)
        self.struct = lib.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(int32_p),
            embd=None,
            pos=self._positions.ctypes.data_as(int32_p),
            n_seq_id=self._ones.ctypes.data_as(int32_p),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(int32_p)),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, parts: list[Rows], n_rows: int) -> None:
        self._outputs[:n_rows] = 0
        row = 0
        for part in parts:
            end = row + len(part.tokens)
            self._tokens[row:end] = part.tokens
            self._positions[row:end] = np.arange(part.start, part.start + len(part.tokens))
            self._seq_ids[row:end] = part.seq_id
            self._outputs[end - part.outputs - len(part.quiet) : end] = 1
            for place in part.quiet:
                self._outputs[row + place] = 0
            row = end
        self.struct.n_tokens = n_rows
