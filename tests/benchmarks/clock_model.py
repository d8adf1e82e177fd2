"""A model whose tokens say when they left the engine.

The replica is the real one; its echo engine gives, instead of each word, the monotonic clock in
nanoseconds. All processes of a machine read the same clock, so a client knows how long every token
was on its way, and nothing of what happens before counts.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from ray import serve
from ray.serve import Application

from serve_app.engines.protocol import Engine, GenerationChunk, GenerationRequest
from serve_app.model.replica import ModelReplica


class NoArgs(BaseModel):
    """No arguments."""


class Clock:
    """An engine whose chunks are stamps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:  # everything else is the engine's
        return getattr(self._engine, name)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Yield the engine's chunks with the time in place of their text."""
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                yield replace(chunk, text=f"{time.monotonic_ns()} ")


class ClockReplica(ModelReplica):
    """A model replica that stamps what its engine gives."""

    async def reconfigure(self, raw: object) -> None:
        """Load the engine, and put the clock in front of it."""
        await super().reconfigure(raw)
        for model in self._keeper.slot.loaded:
            if not isinstance(model.engine, Clock):
                model.engine = Clock(model.engine)


def build_clock(_args: NoArgs) -> Application:
    """Build a model application like `serve_app.app:build_model`."""
    return serve.deployment(
        name="model", max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1}
    )(ClockReplica).bind()
