"""Q4_K_M that is really Q4_K: the types are read back from the written file."""

from collections import Counter
from pathlib import Path

import gguf

from experiments.whole_file import prepared, sync, sync_directory
from training.errors import ExportError
from training.export.llama_runtime import quantise_q4_k_m

Q4_K_M_TYPES = frozenset({"F32", "Q4_K", "Q6_K"})
"""The recipe where every row is a multiple of 256: norms F32, some matrices Q6_K, others Q4_K."""


def quantise(source: Path, target: Path, *, threads: int = 2) -> dict[str, int]:
    """Quantise a file to Q4_K_M and return how many tensors have which type.

    The target appears only after its types were checked.

    Raises:
        ExportError: If llama.cpp fails, or fell back to another type for any tensor.
    """
    with prepared(target) as (scratch, file):
        quantise_q4_k_m(source, scratch, threads=threads)
        counts = check_types(scratch, Q4_K_M_TYPES)
        sync(file)
        scratch.replace(target)
    sync_directory(target.parent)
    return counts


def check_types(path: Path, allowed: frozenset[str]) -> dict[str, int]:
    """Return the number of tensors of each type.

    Raises:
        ExportError: If a tensor has a type that is not allowed, or a matrix was left in F32.
    """
    tensors = gguf.GGUFReader(path).tensors
    wrong = {
        t.name: f"{t.tensor_type.name} (rows of {t.shape[0]})"
        for t in tensors
        if t.tensor_type.name not in allowed or (t.tensor_type.name == "F32" and len(t.shape) > 1)
    }
    if wrong:
        raise ExportError(
            f"{path.name}: unexpected types {wrong}; allowed: {sorted(allowed)}, "
            "which need rows of a multiple of 256"
        )
    return dict(sorted(Counter(t.tensor_type.name for t in tensors).items()))
