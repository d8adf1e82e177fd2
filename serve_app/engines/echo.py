"""The echo engine: deterministic answers without a model.

It is what tests, benchmarks and a first look at a deployment run on. It implements the whole
protocol; delays, failures, hangs and crashes are configured in `EchoOptions` and can be asked for
in the prompt where `obey_prompt` is set.
"""

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

from serve_app.config import ModelConfig
from serve_app.engines.protocol import (
    EngineHealth,
    EngineInfo,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Message,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from serve_app.errors import ContextLengthExceeded, EngineFailed, Overloaded

_WORD = re.compile(r"\s*\S+|\s+$")
_HANG_S = 3600.0


def load(config: ModelConfig) -> "EchoEngine":
    """Return an engine for a configuration with `engine: echo`."""
    return EchoEngine(config)


class EchoEngine:
    """Answers with the last user message, word by word; a word is a token."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._options = config.echo
        self._slots = asyncio.Semaphore(config.n_slots)
        self._running = 0
        self._waiting = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cancelled = 0
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        """Describe the engine."""
        return EngineInfo(
            engine="echo",
            version="1",
            model_name=f"echo{self._options.tag and '-' + self._options.tag}",
            n_ctx=self._config.n_ctx,
            n_slots=self._config.n_slots,
            n_vocab=0,
            template_sha256=hashlib.sha256(b"echo").hexdigest(),
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Yield one chunk per word; see `Engine.generate`."""
        if self._closed:
            raise EngineFailed("the engine is closed")
        prompt = _prompt_text(request)
        prompt_tokens = len(_WORD.findall(prompt))
        if prompt_tokens > self._config.n_ctx:
            raise ContextLengthExceeded(
                f"the prompt has {prompt_tokens} tokens; this model takes {self._config.n_ctx}",
                "messages" if request.messages else "prompt",
            )
        if self._waiting >= max(1, self._config.max_queue):
            raise Overloaded(f"{self._waiting} requests wait already", None, 1.0)
        self._waiting += 1
        arrived_at = time.monotonic()
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        admitted_at = time.monotonic()
        self._running += 1
        self._prompt_tokens += prompt_tokens
        try:
            first_at: float | None = None
            async for chunk in self._answer(request, prompt, prompt_tokens):
                now = time.monotonic()
                first_at = first_at or now
                if chunk.finish_reason is not None:
                    timings = Timings(
                        queue_s=admitted_at - arrived_at,
                        prefill_s=first_at - admitted_at,
                        decode_s=now - first_at,
                    )
                    chunk = replace(chunk, timings=timings)
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self._cancelled += 1
            raise
        finally:
            self._running -= 1
            self._slots.release()

    async def count_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the number of words."""
        return sum(len(_WORD.findall(message.content)) for message in messages)

    def health(self) -> EngineHealth:
        """Report that the engine is alive; it has no loop that could hang."""
        return EngineHealth(alive=not self._closed, heartbeat_age_s=0.0)

    def stats(self) -> EngineStats:
        """Return counters."""
        return EngineStats(
            running=self._running,
            waiting=self._waiting,
            prompt_tokens_total=self._prompt_tokens,
            completion_tokens_total=self._completion_tokens,
            steps_total=self._completion_tokens,
            step_rows_total=self._completion_tokens,
            cancelled_total=self._cancelled,
        )

    async def close(self) -> None:
        """Refuse further requests."""
        self._closed = True

    async def _answer(
        self, request: GenerationRequest, prompt: str, prompt_tokens: int
    ) -> AsyncGenerator[GenerationChunk, None]:
        options = self._options
        await self._misbehave(request, prompt)
        fails = _fraction(request.request_id) < options.fail_rate
        words = list(self._words(request))
        limit = min(request.sampling.max_tokens, max(0, self._config.n_ctx - prompt_tokens))
        finish = "stop" if len(words) <= limit else "length"
        words = words[:limit]
        if options.prefill_s:
            await asyncio.sleep(options.prefill_s)
        started = time.monotonic()
        first = True
        for number, word in enumerate(words):
            if fails and number >= options.fail_after_tokens:
                raise EngineFailed(f"the echo engine failed after {number} tokens, as configured")
            if options.token_s and number:
                await asyncio.sleep(max(0.0, started + number * options.token_s - time.monotonic()))
            self._completion_tokens += 1
            last = number == len(words) - 1
            yield GenerationChunk(
                text=word,
                usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=number + 1),
                logprobs=_logprobs(request, word),
                finish_reason=("stop" if finish == "stop" else "length") if last else None,
                prompt_text=prompt if first and request.echo else "",
                prompt_logprobs=_prompt_logprobs(request, prompt) if first else (),
            )
            first = False
        if fails and not words:
            raise EngineFailed("the echo engine failed, as configured")
        if not words:
            yield GenerationChunk(
                text="",
                usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=0),
                finish_reason="stop" if finish == "stop" else "length",
                prompt_text=prompt if request.echo else "",
                prompt_logprobs=_prompt_logprobs(request, prompt),
            )

    def _words(self, request: GenerationRequest) -> Iterator[str]:
        if request.json_schema is not None:
            answer = json.dumps(
                {"response": _last_text(request), "tag": self._options.tag},
                ensure_ascii=False,
                separators=(",", ":"),
            )
            yield from _WORD.findall(answer)
            return
        words = _WORD.findall(_last_text(request))
        if self._options.tag:
            words = [self._options.tag, *(_spaced(word) for word in words[:1]), *words[1:]]
        if self._options.n_tokens is None:
            yield from words
            return
        source = words or ["echo"]
        for number in range(self._options.n_tokens):
            word = source[number % len(source)]
            yield word if number == 0 else _spaced(word)

    async def _misbehave(self, request: GenerationRequest, prompt: str) -> None:
        if not self._options.obey_prompt:
            return
        if "!crash" in prompt:
            os.kill(os.getpid(), 9)
        if "!hang" in prompt:
            await asyncio.sleep(_HANG_S)
        if "!fail" in prompt:
            raise EngineFailed(f"request {request.request_id!r} asked the echo engine to fail")


def _prompt_text(request: GenerationRequest) -> str:
    if request.messages:
        return "\n".join(message.content for message in request.messages)
    if isinstance(request.prompt, tuple):
        return " ".join(str(token) for token in request.prompt)
    return request.prompt or ""


def _last_text(request: GenerationRequest) -> str:
    return request.messages[-1].content if request.messages else _prompt_text(request)


def _spaced(word: str) -> str:
    return word if word[:1].isspace() else " " + word


def _fraction(text: str) -> float:
    """Return a stable number in [0, 1) for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _logprobs(request: GenerationRequest, word: str) -> tuple[TokenLogprob, ...]:
    if request.sampling.logprobs is None:
        return ()
    return (_certain(word, request.sampling.logprobs),)


def _prompt_logprobs(request: GenerationRequest, prompt: str) -> tuple[TokenLogprob, ...]:
    if request.sampling.logprobs is None or not request.echo:
        return ()
    words = _WORD.findall(prompt)
    first = [TokenLogprob(token=w, token_bytes=w.encode(), logprob=None) for w in words[:1]]
    return (*first, *(_certain(word, request.sampling.logprobs) for word in words[1:]))


def _certain(word: str, n_top: int) -> TokenLogprob:
    """Give a word probability one: nothing else was ever possible."""
    data = word.encode()
    top = (TopLogprob(token=word, token_bytes=data, logprob=0.0),) if n_top else ()
    return TokenLogprob(token=word, token_bytes=data, logprob=0.0, top=top)
