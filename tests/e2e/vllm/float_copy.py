"""A GGUF file with the float32 values of a quantised one: the same model without its rounding."""

from pathlib import Path

import gguf
import numpy as np

_OWN = ("GGUF.", "general.file_type", "general.quantization_version", "general.architecture")


def write_float_copy(source: Path, target: Path) -> Path:
    """Write the copy and return its path."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith(_OWN):
            continue
        kind, *rest = field.types
        writer.add_key_value(name, field.contents(), kind, sub_type=rest[-1] if rest else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
