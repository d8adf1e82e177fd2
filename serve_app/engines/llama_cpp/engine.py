"""The engine as the serving side sees it: requests in, streams of chunks out."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from experiments.grounding.answer import grounded_answer
from serve_app.config import ModelConfig
from serve_app.engines.chat_template import ChatTemplate
from serve_app.engines.llama_cpp.adapter import Adapter, AdapterFile, open_adapters
from serve_app.engines.llama_cpp.admission import Admission, UseGuard
from serve_app.engines.llama_cpp.answer_memory import AnswerMemory
from serve_app.engines.llama_cpp.binding import SUPPORTED_VERSION, system_info
from serve_app.engines.llama_cpp.capacity import context_size, kept_sequences, thread_count
from serve_app.engines.llama_cpp.channel import Channel
from serve_app.engines.llama_cpp.context import Context
from serve_app.engines.llama_cpp.first_choice import Openings
from serve_app.engines.llama_cpp.grammar import Grammar
from serve_app.engines.llama_cpp.grammars import GrammarStore
from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.judged import TokenJudge
from serve_app.engines.llama_cpp.lanes import Lanes, total
from serve_app.engines.llama_cpp.logprobs import unpredicted
from serve_app.engines.llama_cpp.loop import Command, EngineLoop
from serve_app.engines.llama_cpp.model import Model
from serve_app.engines.llama_cpp.prompts import Prompter
from serve_app.engines.llama_cpp.sampling import check_sampling
from serve_app.engines.llama_cpp.scheduler import Tricks
from serve_app.engines.llama_cpp.stepper import Stepper
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.engines.llama_cpp.warm_start import WarmStart
from serve_app.engines.protocol import (
    PRIORITIES,
    EngineHealth,
    EngineInfo,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Message,
)
from serve_app.errors import (
    CarrilError,
    ConfigError,
    EngineFailed,
    InvalidSchema,
    ModelNotReady,
)
from serve_app.telemetry.logs import carril_home

logger = logging.getLogger(__name__)

_A = TypeVar("_A")
_R = TypeVar("_R")

_INLINE_CHARS = 20_000
"""Longer conversations are tokenised off the event loop."""
_INLINE_ROWS_CHARS = 3_000
"""Inventories of longer ones are read off it: some 0.15 ms a row, once for each."""


class AssistantProfile(Protocol):
    """What the engine uses of an assistant's profile."""

    @property
    def chat_template(self) -> str | None:
        """Jinja text used instead of the model's own template."""
        ...

    @property
    def system_prompt(self) -> str | None:
        """Text that conversations begin with, unless they bring their own."""
        ...

    @property
    def answer_schema(self) -> str | None:
        """JSON text of the schema that answers follow; compiled while loading."""
        ...

    @property
    def openings(self) -> Collection[str]:
        """Texts that requests have a `first_bias` for; looked up while loading."""
        ...


def load(
    config: ModelConfig,
    model_path: Path,
    *,
    profile: AssistantProfile | None = None,
    adapters: Mapping[str, AdapterFile] | None = None,
    beside: "LlamaCppEngine | None" = None,
) -> "LlamaCppEngine":
    """Load a GGUF file and start its engine thread. Blocking: call it in a worker thread.

    Args:
        config: What to load and how.
        model_path: The file, whose SHA-256 the caller has verified.
        profile: The assistant's chat template and answer schema; None uses the model's template.
        adapters: LoRA adapters by name, verified as well.
        beside: An engine over a file of the same content, whose weights are used if it is open.

    Raises:
        ConfigError: If llama-cpp-python is missing, or the configuration does not fit the model.
        ModelFileError: If the file or its chat template cannot be used.
    """
    shared = beside is not None and beside.model.share()
    model = beside.model if beside is not None and shared else Model(model_path)
    opened: list[Adapter] = []
    try:
        opened = open_adapters(model, adapters or {})
        return LlamaCppEngine(config, model, profile, opened)
    except BaseException:
        for adapter in opened:
            adapter.close()
        model.close()
        raise


class LlamaCppEngine:
    """A loaded GGUF model. Made by `load`; implements `serve_app.engines.protocol.Engine`.

    Args:
        config: What was asked for.
        model: Open weights, which this object closes.
        profile: See `load`.
        adapters: Open adapters, which it closes too.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: Model,
        profile: AssistantProfile | None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        options = config.llama_cpp
        self._config = config
        self.model = model
        self._adapters = adapters
        self._vocabulary = Vocabulary(model.vocab)
        own_template = profile.chat_template if profile else None
        template = _template(own_template or model.chat_template, self._vocabulary)
        self._prompter = Prompter(self._vocabulary, template, n_ctx=config.n_ctx)
        system_prompt = profile.system_prompt if profile else None
        self._warm_start = WarmStart(
            config,
            self._prompter.opening(system_prompt) if system_prompt else (),
            model_bytes=model.size_bytes,
            directory=carril_home() / "cache" / "prefix",
        )
        self._openings = Openings(self._vocabulary)
        if profile:
            self._openings.learn(profile.openings)
        self._grammars = GrammarStore(model, self._vocabulary, find_forced=options.jump_forward)
        n_threads = thread_count(options.n_threads, model.size_bytes)
        try:
            self._grammars.start()
            if profile and profile.answer_schema:
                self._compile_profile(profile.answer_schema)
            contexts = _contexts(
                config, model, adapters, n_threads, n_pinned=self._warm_start.n_pinned
            )
        except BaseException:
            self._grammars.close()
            raise
        self._admission = Admission(config.total_slots, config.max_queue)
        self._guard = UseGuard()
        self._lanes = Lanes(
            {
                name: Stepper(
                    context,
                    self._vocabulary,
                    n_slots=config.n_slots,
                    n_ctx=config.n_ctx,
                    n_kept=kept_sequences(config),
                    on_done=self._done,
                    pause_s=config.stream_interval_ms / 1000,
                    memory=AnswerMemory(options.answer_memory_tokens // config.n_lanes)
                    if options.answer_memory
                    else None,
                    tricks=Tricks(
                        packing=options.packing,
                        prompt_lookup=options.prompt_lookup,
                        preemption=options.preemption,
                    ),
                )
                for name, context in contexts.items()
            }
        )
        self._loop = EngineLoop(self._lanes)
        self._loop.start(self._warm_up)
        self._info = EngineInfo(
            engine="llama_cpp",
            version=SUPPORTED_VERSION,
            model_name=model.name,
            n_ctx=config.n_ctx,
            n_slots=config.n_slots,
            n_vocab=self._vocabulary.n_tokens,
            template_sha256=self._prompter.template_sha256,
            details={
                "file": model.path.name,
                "model_bytes": str(model.size_bytes),
                "n_threads": str(n_threads),
                "kv_tokens": str(sum(context.n_cells for context in contexts.values())),
                "adapters": ", ".join(self._lanes.names),
                "kv_type": options.kv_type,
                "system": system_info(),
                **self._warm_start.details,
            },
        )

    @property
    def info(self) -> EngineInfo:
        """Describe what is loaded."""
        return self._info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Yield the answer's chunks; see `serve_app.engines.protocol.Engine.generate`."""
        with self._guard.use():
            job = await self._prepare(request)
        if job.max_length == job.n_prompt and not job.wants_prompt_logprobs:
            yield job.answer.end("length")
            return
        self._submit(job)
        ended = False
        first_at = 0.0
        try:
            while not ended:
                item = await job.channel.get()
                first_at = first_at or time.monotonic()
                ended = not isinstance(item, GenerationChunk) or item.finish_reason is not None
                if isinstance(item, CarrilError):
                    raise item
                yield replace(item, timings=job.timings(first_at)) if ended else item
        finally:
            if not ended:
                self._loop.send(Command("cancel", job))

    async def count_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the number of tokens that the rendered conversation takes."""
        return len(await self._in_thread(self._prompter.chat, messages))

    def health(self) -> EngineHealth:
        """Report progress; cheap, safe from any thread."""
        reason = self._loop.failure or ("" if self._loop.is_alive else "the engine was closed")
        return EngineHealth(
            alive=not reason,
            heartbeat_age_s=max(0.0, time.monotonic() - self._loop.heartbeat),
            reason=reason,
        )

    def stats(self) -> EngineStats:
        """Return counters; cheap, safe from any thread."""
        stats = total(_lane_stats(stepper) for stepper in self._lanes)
        return replace(stats, waiting=max(0, self._admission.n_live - stats.running))

    async def close(self) -> None:
        """Stop the loop and free the model. Requests still running end with `EngineFailed`."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if not self._guard.close():
            return
        self._loop.send(Command("stop"))
        self._loop.join()
        self._warm_start.close()
        self._grammars.close()
        for adapter in self._adapters:
            adapter.close()
        self.model.close()

    def _warm_up(self) -> None:
        options = self._config.llama_cpp
        try:
            if options.packing or options.prompt_lookup or options.answer_memory:
                first, *others = self._lanes
                first.calibrate()
                for stepper in others:  # what an adapter costs besides, its steps will tell
                    stepper.costs.adopt(first.costs)
            for name, stepper in self._lanes.steppers.items():
                self._warm_start.pin(
                    stepper.context, stepper.pool, stepper.prefixes, adapter=self._identity(name)
                )
        except BaseException:
            self._lanes.end([], "the model was not loaded")
            self._grammars.close()
            raise
        self._warm_start.write()

    def _identity(self, adapter: str | None) -> str:
        if adapter is None:
            return ""
        file = self._config.adapters[adapter]
        return f"{file.sha256} x {file.scale}"

    def _compile_profile(self, schema: str) -> None:
        try:
            self._grammars.compile(schema)
        except InvalidSchema as error:
            raise ConfigError(f"answer schema of the profile: {error}") from error

    async def _in_thread(self, function: Callable[[_A], _R], argument: _A) -> _R:
        def call() -> _R:  # counts as use until the thread is done, even if the waiter gave up
            with self._guard.use():
                return function(argument)

        return await asyncio.to_thread(call)

    async def _prepare(self, request: GenerationRequest) -> Job:
        check_sampling(request.sampling)
        size = sum(len(message.content) for message in request.messages)
        size += len(request.prompt or "")
        if size <= _INLINE_CHARS:
            tokens = self._prompter.tokens_of(request)
        else:
            tokens = await self._in_thread(self._prompter.tokens_of, request)
        if request.adapter not in self._lanes:
            raise ModelNotReady(
                f"adapter {request.adapter!r} is not loaded; loaded: {self._lanes.names}"
            )
        grammar: Grammar | None = None
        if request.json_schema is not None:
            grammar = self._grammars.known(request.json_schema)
            if grammar is None:
                grammar = await self._in_thread(self._grammars.compile, request.json_schema)
        if size <= _INLINE_ROWS_CHARS:
            judge = self._judge(request)
        else:
            judge = await self._in_thread(self._judge, request)
        prompt = request.prompt
        text = prompt if isinstance(prompt, str) else self._vocabulary.text(tokens)
        job = Job(
            request,
            tokens,
            echo_text=text,
            grammar=grammar,
            judge=judge,
            first_bias=self._openings.bias(request.first_bias)
            if request.first_bias and grammar is not None
            else None,
            channel=Channel(),
            n_ctx=self._config.n_ctx,
        )
        if job.wants_prompt_logprobs:
            job.answer.prompt_logprobs.append(unpredicted(tokens[0], self._vocabulary))
        return job

    def _judge(self, request: GenerationRequest) -> TokenJudge | None:
        if request.grounding == "off":
            return None  # before anything is made for it
        turns = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        answer = grounded_answer(turns, request.json_schema, request.grounding)
        if answer is None:
            return None
        return TokenJudge(answer, self._vocabulary.pieces, self._vocabulary.eog)

    def _submit(self, job: Job) -> None:
        self._admission.enter(job.priority)
        try:
            self._loop.send(Command("add", job))
        except EngineFailed:
            self._admission.leave(job.priority)
            raise

    def _done(self, job: Job) -> None:
        self._admission.leave(job.priority, time.monotonic() - job.submitted_at)


def _lane_stats(stepper: Stepper) -> EngineStats:
    counters, scheduler = stepper.counters, stepper.scheduler
    n_pinned = stepper.prefixes.n_pinned_tokens
    return EngineStats(
        running=len(scheduler.running),
        waiting_by_priority={name: scheduler.waiting.count(name) for name in PRIORITIES},
        preempted_total=scheduler.seats.n_preempted,
        refused_late_total=counters.refused_late,
        prompt_tokens_total=counters.prompt_tokens,
        cached_tokens_total=counters.cached_tokens,
        completion_tokens_total=counters.completion_tokens,
        steps_total=counters.steps,
        step_rows_total=counters.step_rows,
        kv_tokens_used=stepper.pool.active - n_pinned,
        kv_tokens_capacity=stepper.pool.n_cells - n_pinned,
        cancelled_total=counters.cancelled,
        evicted_tokens_total=stepper.prefixes.n_evicted_tokens,
        restored_tokens_total=stepper.prefixes.n_restored_tokens,
        forced_tokens_total=counters.forced_tokens,
        guessed_by_source=dict(counters.guessed),
        right_by_source=dict(counters.right),
    )


def _contexts(
    config: ModelConfig,
    model: Model,
    adapters: Sequence[Adapter],
    n_threads: int,
    *,
    n_pinned: int,
) -> dict[str | None, Context]:
    """Make a context for each adapter, and one for the base if it answers."""
    made: dict[str | None, Context] = {}
    try:
        for adapter in (*([None] if config.serve_base else []), *adapters):
            context = Context(
                model,
                context_size(config, model, n_pinned=n_pinned),
                n_threads=n_threads,
                kv_type=config.llama_cpp.kv_type,
                flash_attention=config.llama_cpp.flash_attention,
            )
            made[adapter.name if adapter else None] = context
            if adapter:
                context.lay(adapter)
    except BaseException:
        for context in made.values():
            context.close()
        raise
    return made


def _template(source: str | None, vocabulary: Vocabulary) -> ChatTemplate | None:
    if source is None:
        return None
    names = [
        vocabulary.name(token).decode("utf-8", "replace") if token >= 0 else ""
        for token in (vocabulary.bos, vocabulary.eos)
    ]
    return ChatTemplate(source, bos_token=names[0], eos_token=names[1])
