"""carril's llama.cpp engine without a server around it."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from serve_app.config import ModelConfig, ModelFileConfig
from serve_app.engines.llama_cpp import load
from serve_app.engines.protocol import Engine, GenerationRequest, Message, SamplingParams
from serve_app.model.profile import load_profile
from tests.benchmarks.servers import sha256


@contextlib.asynccontextmanager
async def engine(
    path: Path,
    *,
    n_ctx: int,
    n_slots: int,
    options: Mapping[str, Any],
    profile: Path | None = None,
) -> AsyncIterator[Engine]:
    """Load a model, and close it."""
    config = ModelConfig(
        engine="llama_cpp",
        model=ModelFileConfig(path=str(path), sha256=sha256(path)),
        n_ctx=n_ctx,
        n_slots=n_slots,
        llama_cpp=dict(options),
    )
    loaded = load(config, path, profile=load_profile(str(profile)) if profile else None)
    try:
        yield loaded
    finally:
        await loaded.close()


def request(
    name: str,
    question: str,
    *,
    system: str | None = None,
    max_tokens: int,
    schema: str | None = None,
) -> GenerationRequest:
    """Return a greedy request."""
    messages = [Message(role="user", content=question)]
    if system is not None:
        messages.insert(0, Message(role="system", content=system))
    return GenerationRequest(
        request_id=name,
        messages=tuple(messages),
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0),
        json_schema=schema,
    )
