"""Writes a LoRA adapter as a GGUF file that llama.cpp lays over a base."""

import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor
from transformers import LlamaConfig

from training.errors import ExportError
from training.export.gguf_writer import permute_rope_rows, rotated_heads

_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
"""Names that `peft.get_peft_model_state_dict` gives."""


def write_adapter_gguf(
    weights: Mapping[str, Tensor],
    config: LlamaConfig,
    path: Path,
    *,
    name: str,
    version: str,
    license_: str,
    alpha: float,
    base_name: str,
) -> None:
    """Write an adapter in F32; the file appears when whole.

    Args:
        weights: Tensors by the names that PEFT gives them.
        config: Shape of the base.
        path: The file to write.
        name: Name of the adapter, stored in the file.
        version: Semantic version, stored in the file.
        license_: SPDX name, stored in the file.
        alpha: llama.cpp scales the product by alpha / rank.
        base_name: Name of the base, stored in the file.

    Raises:
        ExportError: If a tensor belongs to no matrix of a Llama network, or lacks its other half.
    """
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tensors = {}
    for key, tensor in weights.items():
        match = _KEY.fullmatch(key)
        target = match and names.get_name(f"{match['module']}.weight", try_suffixes=(".weight",))
        if match is None or target is None:
            raise ExportError(f"GGUF has no name for the adapter's tensor {key!r}")
        array = tensor.detach().cpu().float().numpy()
        n_heads = rotated_heads(config, f"{match['module']}.weight")
        if match["side"] == "B" and n_heads:
            array = permute_rope_rows(array, n_heads)  # B makes the rows that the base reorders
        tensors[f"{target}.lora_{match['side'].lower()}"] = np.ascontiguousarray(array)
    _check_pairs(set(tensors))
    temporary = path.with_suffix(".tmp")
    writer = gguf.GGUFWriter(temporary, "llama")
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        writer.add_name(name)
        writer.add_version(version)
        writer.add_license(license_)
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base_name)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        for target in sorted(tensors):
            writer.add_tensor(target, tensors[target])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_pairs(names: set[str]) -> None:
    if not names:
        raise ExportError("The adapter has no tensors")
    for name in sorted(names):
        other = name[:-1] + ("b" if name.endswith("a") else "a")
        if other not in names:
            raise ExportError(f"The adapter has {name!r} but no {other!r}")
