"""The engine as the serving side sees it: requests in, streams of chunks out, vLLM behind."""

import asyncio
import contextlib
import functools
import itertools
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from serve_app.config import ModelConfig
from serve_app.engines.chat_template import ChatTemplate
from serve_app.engines.llama_cpp.admission import Admission
from serve_app.engines.llama_cpp.engine import AssistantProfile
from serve_app.engines.llama_cpp.prompts import Prompter
from serve_app.engines.protocol import (
    PRIORITIES,
    EngineHealth,
    EngineInfo,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Message,
)
from serve_app.engines.schema import compile_schema
from serve_app.engines.vllm import binding
from serve_app.engines.vllm.answers import AnswerStream
from serve_app.engines.vllm.binding import library
from serve_app.engines.vllm.folder import HfFolder, read_folder
from serve_app.engines.vllm.progress import Progress
from serve_app.engines.vllm.vocabulary import HfVocabulary
from serve_app.errors import (
    ConfigError,
    DeadlineExceeded,
    EngineFailed,
    InvalidSchema,
    RequestError,
)

logger = logging.getLogger(__name__)

_INLINE_CHARS = 20_000
"""Longer conversations are tokenised off the event loop."""
_CLOSE_S = 10.0
"""Longest wait for running requests to notice that the engine closes."""


def load(
    config: ModelConfig, folder: Path, *, profile: AssistantProfile | None = None
) -> "VllmEngine":
    """Load a Hugging Face folder. Blocking: call it in a worker thread.

    Args:
        config: What to load and how.
        folder: The folder, whose hash the caller has verified.
        profile: The assistant's chat template and answer schema; None uses the folder's template.

    Raises:
        ConfigError: If vLLM is missing, or the configuration does not fit the model.
        ModelFileError: If the folder or its chat template cannot be used.
    """
    library()
    described = read_folder(folder)
    if profile and profile.answer_schema:
        try:
            compile_schema(profile.answer_schema)
        except InvalidSchema as error:
            raise ConfigError(f"answer schema of the profile: {error}") from error
    vocabulary = HfVocabulary(described)
    source = (profile.chat_template if profile else None) or described.chat_template
    template = None
    if source is not None:
        template = ChatTemplate(source, bos_token=described.bos, eos_token=described.eos)
    prompter = Prompter(vocabulary, template, n_ctx=config.n_ctx)
    progress = Progress()
    engine = binding.open_engine(
        config, folder, kv_token_bytes=described.kv_token_bytes, sink=progress.record
    )
    progress.kv_tokens_capacity = binding.kv_tokens(engine)
    return VllmEngine(config, described, vocabulary, prompter, engine, progress)


class VllmEngine:
    """A model in vLLM. Made by `load`; implements `serve_app.engines.protocol.Engine`.

    All requests must come from one event loop, which is that of the first.

    Args:
        config: What was asked for.
        folder: What was loaded.
        vocabulary: Its tokenizer.
        prompter: Makes its prompts.
        engine: vLLM's `AsyncLLM`, owned by this object from now on.
        progress: Where vLLM counts.
    """

    def __init__(
        self,
        config: ModelConfig,
        folder: HfFolder,
        vocabulary: HfVocabulary,
        prompter: Prompter,
        engine: Any,
        progress: Progress,
    ) -> None:
        self._config = config
        self._vocabulary = vocabulary
        self._prompter = prompter
        self._engine = engine
        self._progress = progress
        self._admission = Admission(config.n_slots, config.max_queue)
        self._numbers = itertools.count()
        self._live: set[str] = set()
        self._busy_since = time.monotonic()
        self._closed = False
        self._idle = asyncio.Event()
        self._grammar = functools.lru_cache(maxsize=64)(compile_schema)
        options = config.vllm
        self._info = EngineInfo(
            engine="vllm",
            version=library().version,
            model_name=folder.name,
            n_ctx=config.n_ctx,
            n_slots=config.n_slots,
            n_vocab=vocabulary.n_tokens,
            template_sha256=prompter.template_sha256,
            details={
                "folder": folder.path.name,
                "dtype": options.dtype,
                "quantization": options.quantization or "as in config.json",
                "tensor_parallel_size": str(options.tensor_parallel_size),
                "device": "cpu" if library().is_cpu else "gpu",
                "kv_tokens": str(progress.kv_tokens_capacity),
            },
        )

    @property
    def info(self) -> EngineInfo:
        """Describe what is loaded."""
        return self._info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Yield the answer's chunks; see `serve_app.engines.protocol.Engine.generate`."""
        received = time.monotonic()
        if self._closed:
            raise EngineFailed("the engine was closed")
        tokens = await self._tokens(request)
        answers = AnswerStream(request, tokens, self._vocabulary)
        wants_prompt_logprobs = request.echo and request.sampling.logprobs is not None
        if request.sampling.max_tokens == 0 and not wants_prompt_logprobs:
            yield answers.answer.end("length")
            return
        params = self._params(request, len(tokens), wants_prompt_logprobs)
        self._admission.enter(request.priority)
        if not self._live:
            self._busy_since = received
        number = f"{request.request_id}-{next(self._numbers)}"
        self._live.add(number)
        try:
            stream = binding.start(
                self._engine,
                tokens,
                params,
                request_id=number,
                salt=request.cache_salt,
                priority=PRIORITIES.index(request.priority),
            )
            async with aclosing(self._outputs(stream, request, received)) as outputs:
                n_tokens = 0
                async for output in outputs:
                    chunks = list(answers.chunks(output))
                    if not n_tokens:
                        self._progress.count_prompt(len(tokens), answers.answer.cached_tokens)
                    self._progress.count_tokens(answers.answer.n_tokens - n_tokens)
                    n_tokens = answers.answer.n_tokens
                    for chunk in chunks:
                        yield chunk
                    if answers.finished:
                        return
            raise EngineFailed("vLLM ended this answer without a reason")
        except (asyncio.CancelledError, GeneratorExit):
            self._progress.cancelled += 1
            raise
        finally:
            self._live.discard(number)
            if not self._live:
                self._idle.set()
            self._admission.leave(request.priority, time.monotonic() - received)

    async def count_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the number of tokens that the rendered conversation takes."""
        return len(await asyncio.to_thread(self._prompter.chat, messages))

    def health(self) -> EngineHealth:
        """Report progress; cheap, safe from any thread."""
        reason = ""
        if self._closed:
            reason = "the engine was closed"
        elif self._engine.errored:
            reason = "vLLM's engine process ended"
        age = 0.0
        if self._live:  # vLLM takes no steps while nobody asks
            age = time.monotonic() - max(self._progress.last_step, self._busy_since)
        return EngineHealth(alive=not reason, heartbeat_age_s=max(0.0, age), reason=reason)

    def stats(self) -> EngineStats:
        """Return counters; cheap, safe from any thread."""
        return self._progress.stats(self._admission.n_live)

    async def close(self) -> None:
        """Stop vLLM and free the model. Requests still running end with `EngineFailed`."""
        if self._closed:
            return
        self._closed = True
        if self._live and not self._engine.errored:
            await self._engine.abort(sorted(self._live))
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _CLOSE_S)
        await asyncio.to_thread(self._engine.shutdown)

    async def _tokens(self, request: GenerationRequest) -> tuple[int, ...]:
        size = sum(len(message.content) for message in request.messages)
        size += len(request.prompt or "")
        if size <= _INLINE_CHARS:
            return self._prompter.tokens_of(request)
        return await asyncio.to_thread(self._prompter.tokens_of, request)

    def _params(self, request: GenerationRequest, n_prompt: int, prompt_logprobs: bool) -> Any:
        sampling = request.sampling
        # The grammar is ours, as with llama.cpp: the same subset, the same order, compact JSON.
        grammar = None if request.json_schema is None else self._grammar(request.json_schema)
        return binding.sampling_params(
            sampling,
            max_tokens=max(1, min(sampling.max_tokens, self._config.n_ctx - n_prompt)),
            end_tokens=self._vocabulary.eog,
            grammar=grammar,
            prompt_logprobs=max(1, sampling.logprobs or 0) if prompt_logprobs else None,
        )

    async def _outputs(
        self,
        stream: AsyncGenerator[binding.Output, None],
        request: GenerationRequest,
        received: float,
    ) -> AsyncGenerator[binding.Output, None]:
        """Yield vLLM's outputs within the deadlines of the request, errors translated."""
        loop = asyncio.get_running_loop()
        offset = loop.time() - time.monotonic()
        waits = [request.timeout_s, request.first_token_s]
        async with aclosing(stream):
            while True:
                given = [received + offset + wait for wait in waits if wait is not None]
                try:
                    async with asyncio.timeout_at(min(given, default=None)):
                        output = await anext(stream)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    waited = time.monotonic() - received
                    raise DeadlineExceeded(f"no complete answer after {waited:.1f} s") from error
                except RequestError:
                    raise
                except Exception as error:
                    raise binding.translated(
                        error, with_schema=request.json_schema is not None
                    ) from error
                waits = [request.timeout_s]
                yield output
