"""The only module that imports `llama_cpp`: lazily, checked, with its log sent to ours.

llama.cpp changes its C structs from release to release, and a wrong layout corrupts memory instead
of raising. So the version is pinned exactly, and sizes and known defaults are compared before the
first call.
"""

import ctypes
import functools
import logging
import os
from typing import Any

from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

SUPPORTED_VERSION = "0.3.36"
"""The release of llama-cpp-python whose struct layouts this package was written against."""

_STRUCT_BYTES = {
    "llama_model_params": 80,
    "llama_context_params": 160,
    "llama_batch": 56,
    "llama_token_data": 12,
    "llama_token_data_array": 32,
    "llama_sampler_chain_params": 1,
}
_CONTEXT_DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "type_k": 1}
"""A shifted field shows up here: these are the values the C library fills in."""

_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}
"""ggml levels to ours. Its warnings are remarks about defaults, hence INFO."""
_CONTINUATION = 5


@functools.cache
def library() -> Any:  # a module of ctypes functions, which has no types
    """Return the `llama_cpp` module, checked and initialised once per process.

    Raises:
        ConfigError: If it is not installed, or is another release than this package supports.
    """
    # libgomp reads these once, when it is loaded. By default its threads spin at every barrier, of
    # which a decode has hundreds; with more threads than free CPUs (a second variant, Ray's own
    # processes) each spin then lasts until the scheduler's next turn. Measured on 2 busy cores:
    # 28-88 ms per step of a 3M model spinning, 1.4 ms passive. Some 50 us of spinning are worth
    # while, though: 31 instead of 35 ms per step of a 1.2B model. An operator's own values stand.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        import llama_cpp
    except ImportError as error:
        raise ConfigError(
            "the llama_cpp engine needs llama-cpp-python: "
            f"pip install 'carril[cpu]' (llama-cpp-python=={SUPPORTED_VERSION})"
        ) from error
    check_layout(llama_cpp)
    llama_cpp.llama_log_set(_log_callback(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def check_layout(module: Any) -> None:  # see `library`
    """Compare version, struct sizes and defaults with what this package was written against.

    Raises:
        ConfigError: On any difference.
    """
    version = module.__version__
    if version != SUPPORTED_VERSION:
        raise ConfigError(
            f"llama-cpp-python {version!r} is installed; struct layouts are only known for "
            f"{SUPPORTED_VERSION!r}: pip install llama-cpp-python=={SUPPORTED_VERSION}"
        )
    sizes = {name: ctypes.sizeof(getattr(module, name)) for name in _STRUCT_BYTES}
    if sizes != _STRUCT_BYTES:
        raise ConfigError(f"llama_cpp structs have sizes {sizes}, expected {_STRUCT_BYTES}")
    params = module.llama_context_default_params()
    defaults = {name: getattr(params, name) for name in _CONTEXT_DEFAULTS}
    if defaults != _CONTEXT_DEFAULTS:
        raise ConfigError(
            f"llama_cpp context defaults are {defaults}, expected {_CONTEXT_DEFAULTS}: "
            "the shared library does not belong to this Python package"
        )


def system_info() -> str:
    """Return the CPU features the library was built for."""
    return str(library().llama_print_system_info().decode("utf-8", "replace")).strip(" |")


@functools.cache
def _log_callback(module: Any) -> Any:  # the ctypes callback must outlive every call: cached
    lines: list[str] = []
    level_of_line = logging.DEBUG

    def log(level: int, text: bytes, _user_data: object) -> None:
        nonlocal level_of_line
        if level != _CONTINUATION:
            level_of_line = _LEVELS.get(level, logging.DEBUG)
        lines.append(text.decode("utf-8", "replace"))
        if lines[-1].endswith("\n"):
            logger.log(level_of_line, "%s", "".join(lines).rstrip())
            lines.clear()

    return module.llama_log_callback(log)
