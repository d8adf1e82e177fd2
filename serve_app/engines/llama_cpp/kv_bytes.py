"""The KV memory of a sequence as bytes, to be put into another context of the same model."""

import ctypes

from serve_app.engines.llama_cpp.binding import library
from serve_app.engines.llama_cpp.context import Context

_BYTE_P = ctypes.POINTER(ctypes.c_uint8)


def read_kv(context: Context, seq_id: int) -> memoryview:
    """Return a copy of a sequence's KV memory.

    Raises:
        RuntimeError: If llama.cpp gives less than it said.
    """
    lib = library()
    size = int(lib.llama_state_seq_get_size(context.handle, seq_id))
    buffer = (ctypes.c_uint8 * size)()
    n = int(lib.llama_state_seq_get_data(context.handle, buffer, size, seq_id))
    if n != size:
        raise RuntimeError(f"llama.cpp copied {n} of {size} bytes of KV memory")
    return memoryview(buffer).cast("B")


def write_kv(context: Context, seq_id: int, data: bytes, n_tokens: int) -> bool:
    """Fill an empty sequence; False, and empty still, if the bytes are none of this model.

    Args:
        context: Made of the same model with the same options. llama.cpp checks shapes only, so the
            caller answers for where the bytes are from.
        seq_id: The sequence.
        data: From `read_kv`.
        n_tokens: How many tokens they hold.
    """
    buffer = ctypes.cast(ctypes.c_char_p(data), _BYTE_P)
    n = library().llama_state_seq_set_data(context.handle, buffer, len(data), seq_id)
    if n == len(data) and context.length(seq_id) == n_tokens:
        return True
    context.cut(seq_id, 0)
    return False
