"""Short ways to ask an engine things, shared by the tests here."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serve_app.config import ModelConfig, parse_model_config
from serve_app.engines.llama_cpp import LlamaCppEngine
from serve_app.engines.protocol import (
    GenerationChunk,
    GenerationRequest,
    Message,
    SamplingParams,
    TokenLogprob,
    Usage,
)


@dataclass
class Answer:
    """All chunks of one answer, put together."""

    text: str = ""
    usage: Usage = field(default_factory=lambda: Usage(prompt_tokens=0, completion_tokens=0))
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_text: str = ""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    chunks: list[GenerationChunk] = field(default_factory=list)


def model_config(**changes: object) -> ModelConfig:
    """Return a configuration for the tiny model."""
    raw = {
        "engine": "llama_cpp",
        "model": {"path": "nano.gguf", "sha256": "0" * 64},
        "n_ctx": 512,
        "n_slots": 8,
        "max_queue": 64,
        "stream_interval_ms": 0,
        "llama_cpp": {"n_threads": 1},
    }
    return parse_model_config(raw | changes)


def chat(text: str, *, system: str | None = None, **sampling: object) -> GenerationRequest:
    """Return a chat request; greedy and short unless told otherwise."""
    messages = [Message(role="user", content=text)]
    if system is not None:
        messages.insert(0, Message(role="system", content=system))
    own = {"json_schema", "timeout_s", "first_token_s", "priority", "adapter"}
    request = GenerationRequest(
        request_id="test",
        messages=tuple(messages),
        sampling=SamplingParams(
            **(
                {"max_tokens": 24, "temperature": 0.0}
                | {k: v for k, v in sampling.items() if k not in own}
            )
        ),
    )
    return replace(request, **{k: v for k, v in sampling.items() if k in own})


def completion(prompt: str | tuple[int, ...], **options: object) -> GenerationRequest:
    """Return a completion request."""
    echo = bool(options.pop("echo", False))
    return GenerationRequest(
        request_id="test",
        prompt=prompt,
        echo=echo,
        sampling=SamplingParams(**({"max_tokens": 24, "temperature": 0.0} | options)),
    )


async def ask(engine: LlamaCppEngine, request: GenerationRequest) -> Answer:
    """Collect an answer."""
    answer = Answer()
    async for chunk in engine.generate(request):
        if not answer.chunks:
            answer.prompt_text = chunk.prompt_text
            answer.prompt_logprobs = chunk.prompt_logprobs
        assert answer.finish_reason is None, "a chunk after the last"
        answer.chunks.append(chunk)
        answer.text += chunk.text
        answer.logprobs += chunk.logprobs
        answer.usage = chunk.usage
        answer.finish_reason = chunk.finish_reason
    assert answer.finish_reason is not None
    return answer


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> float:
    """Poll a condition; return how long it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():
        assert loop.time() - started < timeout_s, "condition not met in time"
        await asyncio.sleep(0.005)
    return loop.time() - started
