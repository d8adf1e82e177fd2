"""The only module that imports `vllm`: lazily, checked, and everything of its API in one place.

vLLM renames and moves things from release to release. So one minor version is supported, and what
carril uses of it is named here and nowhere else.
"""

import functools
import logging
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from serve_app.config import ModelConfig
from serve_app.engines.protocol import SamplingParams
from serve_app.errors import (
    ConfigError,
    EngineFailed,
    InvalidField,
    InvalidSchema,
    ModelFileError,
    RequestError,
)

logger = logging.getLogger(__name__)

SUPPORTED_VERSION = "0.32"
"""The minor release of vLLM that this package was written against."""

_SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # the folder is all there is; nothing is ever looked up
    "VLLM_LOGGING_LEVEL": "WARNING",
    # On CPUs vLLM would pin its threads to all cores, on which other variants run as well. Threads
    # are as many as OMP_NUM_THREADS, which Ray sets to the num_cpus of the replica.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Threads that spin at barriers keep the others from working where CPUs are shared.
    "OMP_WAIT_POLICY": "passive",
}
_MAX_SEED = 1 << 63
_MIN_TOP_P = 1e-6
"""vLLM refuses 0, which elsewhere means the best token only."""
_CPU_BLOCK = 32
"""Tokens of a block of KV on CPUs. Only whole blocks are shared between prompts; vLLM's own 128
would share nothing of a short system prompt, and its kernels want multiples of 32."""
_MAX_KV_BYTES = 2 << 30

Output = Any  # vllm.RequestOutput
Sink = Callable[[Any, Any], None]


class Vllm(NamedTuple):
    """What carril uses of the package."""

    version: str
    engine_args: Any
    async_llm: Any
    sampling_params: Any
    structured_outputs: Any
    delta: Any
    tokens_input: Callable[..., Any]
    stat_logger: type[Any]
    is_cpu: bool
    client_error: type[Exception]
    dead_error: type[Exception]


@functools.cache
def library() -> Vllm:
    """Import vLLM, once per process.

    Raises:
        ConfigError: If it is not installed, or is another release than this package supports.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"the vllm engine needs vLLM {SUPPORTED_VERSION}, which this environment does not have "
            f"({error}). On CPUs: make vllm, and in the application's runtime_env py_executable: "
            ".venv-vllm/bin/python; with GPUs: pip install 'carril[gpu]'"
        ) from error
    check_version(str(vllm.__version__))
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.exceptions import VLLMClientError
    from vllm.inputs import tokens_input
    from vllm.platforms import current_platform
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError
    from vllm.v1.metrics.loggers import StatLoggerBase

    return Vllm(
        version=str(vllm.__version__),
        engine_args=AsyncEngineArgs,
        async_llm=AsyncLLM,
        sampling_params=vllm.SamplingParams,
        structured_outputs=StructuredOutputsParams,
        delta=RequestOutputKind.DELTA,
        tokens_input=tokens_input,
        stat_logger=StatLoggerBase,
        is_cpu=bool(current_platform.is_cpu()),
        client_error=VLLMClientError,
        dead_error=EngineDeadError,
    )


def check_version(version: str) -> None:
    """Refuse another release than the supported one.

    Raises:
        ConfigError: With the command that installs the right one.
    """
    if not version.startswith(f"{SUPPORTED_VERSION}."):
        raise ConfigError(
            f"vLLM is {version!r}, this carril supports {SUPPORTED_VERSION}: "
            f"pip install 'vllm=={SUPPORTED_VERSION}.*' (on CPUs: make vllm)"
        )


def open_engine(
    config: ModelConfig, folder: Path, *, kv_token_bytes: int | None, sink: Sink
) -> Any:  # vllm.v1.engine.async_llm.AsyncLLM
    """Load a folder. Blocking: a minute or more.

    Args:
        config: What was asked for.
        folder: The folder, whose hash the caller has verified.
        kv_token_bytes: KV of one token at most, None if not known.
        sink: Called after each step with vLLM's scheduler and iteration statistics.

    Raises:
        ModelFileError: If vLLM cannot serve the folder, or not with these options.
    """
    lib = library()
    options = config.vllm
    arguments = lib.engine_args(
        model=str(folder),
        tokenizer=str(folder),
        trust_remote_code=False,
        load_format="safetensors",
        generation_config="vllm",
        dtype=options.dtype,
        quantization=options.quantization,
        max_model_len=config.n_ctx,
        max_num_seqs=config.n_slots,
        tensor_parallel_size=options.tensor_parallel_size,
        gpu_memory_utilization=options.gpu_memory_utilization,
        kv_cache_memory_bytes=kv_bytes(config, kv_token_bytes, on_cpu=lib.is_cpu),
        block_size=_CPU_BLOCK if lib.is_cpu else None,
        enforce_eager=options.enforce_eager,
        enable_prefix_caching=options.prefix_cache,
        scheduling_policy="priority",
        structured_outputs_config={"backend": "xgrammar"},
        disable_log_stats=True,
    )

    class Recorder(lib.stat_logger):  # type: ignore[misc, name-defined]  # a class only vLLM has
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
            sink(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            pass

    try:
        return lib.async_llm.from_engine_args(arguments, stat_loggers=[Recorder])
    except Exception as error:
        raise ModelFileError(f"vLLM cannot serve {str(folder)!r}: {_first_line(error)}") from error


def kv_bytes(config: ModelConfig, kv_token_bytes: int | None, *, on_cpu: bool) -> int | None:
    """Return how much memory KV gets, None to let vLLM measure what is left.

    On CPUs vLLM would take a share of all memory; there it is counted in requests.
    """
    if config.vllm.kv_cache_mib is not None:
        return config.vllm.kv_cache_mib << 20
    if not on_cpu:
        return None
    if kv_token_bytes is None:
        return _MAX_KV_BYTES
    request = (-(-config.n_ctx // _CPU_BLOCK) + 1) * _CPU_BLOCK * kv_token_bytes
    return max(2 * request, min((config.n_slots + 1) * request, _MAX_KV_BYTES))


def kv_tokens(engine: Any) -> int:
    """Return for how many tokens there is KV memory."""
    cache = engine.vllm_config.cache_config
    return int(cache.num_gpu_blocks or 0) * int(cache.block_size)


def sampling_params(
    params: SamplingParams,
    *,
    max_tokens: int,
    end_tokens: frozenset[int],
    grammar: str | None,
    prompt_logprobs: int | None,
) -> Any:  # vllm.SamplingParams
    """Translate sampling parameters.

    Stop strings are not among them: text is made here, and so are they found here.

    Raises:
        InvalidField: If vLLM refuses a value.
    """
    lib = library()
    try:
        return lib.sampling_params(
            max_tokens=max_tokens,
            temperature=params.temperature,
            top_p=max(params.top_p, _MIN_TOP_P),
            top_k=params.top_k,
            min_p=params.min_p,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            seed=None if params.seed is None else params.seed % _MAX_SEED,
            logprobs=params.logprobs,
            prompt_logprobs=prompt_logprobs,
            stop_token_ids=sorted(end_tokens),
            structured_outputs=(
                None if grammar is None else lib.structured_outputs(grammar=grammar)
            ),
            detokenize=False,
            output_kind=lib.delta,
        )
    except (lib.client_error, ValueError) as error:
        raise InvalidField(_first_line(error), getattr(error, "parameter", None)) from error


def start(
    engine: Any, tokens: tuple[int, ...], params: Any, *, request_id: str, salt: str, priority: int
) -> AsyncGenerator[Output, None]:
    """Begin a request; closing the generator aborts it."""
    prompt = library().tokens_input(list(tokens), cache_salt=salt or None)
    stream: AsyncGenerator[Output, None] = engine.generate(
        prompt, params, request_id, priority=priority
    )
    return stream


def translated(error: Exception, *, with_schema: bool) -> RequestError:
    """Return carril's error for one that vLLM raised while it answered."""
    lib = library()
    if isinstance(error, lib.client_error):
        if with_schema and "grammar" in str(error).lower():
            return InvalidSchema(
                f"the JSON schema does not compile to a grammar: {_first_line(error)}",
                "response_format",
            )
        return InvalidField(_first_line(error), getattr(error, "parameter", None))
    if isinstance(error, lib.dead_error):
        return EngineFailed("vLLM's engine process ended; the replica is going to be replaced")
    logger.error("vLLM failed a request", exc_info=error)
    return EngineFailed("vLLM failed while it computed this answer")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic puts a count first and what is wrong two lines later
    found = next((line for line in lines if line.startswith("Value error")), None)
    return (found or (lines or [type(error).__name__])[0])[:500]
