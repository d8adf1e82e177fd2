"""llama.cpp for training: GGUF models as `experiments.llama_runtime` opens them, and quantisation.

The adapter to `llama_cpp` of this package.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import ArtefactError, ExportError, MissingExtraError

try:
    import llama_cpp
except ImportError as err:
    raise MissingExtraError("Checking GGUF files", "llama-cpp-python", "cpu") from err

from experiments import llama_runtime
from experiments.llama_runtime import GgufError, GgufModel

__all__ = ["GgufModel", "open_gguf", "quantise_q4_k_m"]


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
    try:
        with llama_runtime.open_gguf(path, n_ctx=n_ctx, threads=threads, adapter=adapter) as model:
            yield model
    except GgufError as err:
        raise ArtefactError(str(err)) from err


def quantise_q4_k_m(source: Path, target: Path, *, threads: int = 2) -> None:
    """Quantise an F32 or F16 file with llama.cpp's own Q4_K_M recipe.

    Raises:
        ExportError: If llama.cpp reports a failure.
    """
    llama_runtime.be_silent()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    params.nthread = threads
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    if status:
        raise ExportError(f"llama_model_quantize returned {status} for {str(source)!r}")
