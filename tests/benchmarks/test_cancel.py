"""How soon a slot is free after its reader has gone: carril's engine alone, no peer.

While decoding: one of four running streams is closed. In prefill: the only request, whose prompt of
2,000 tokens is being computed. Targets: 300 ms and 500 ms, at most.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

import pytest

from serve_app.engines.protocol import Engine, GenerationRequest
from tests.benchmarks import report, synthetic_gguf
from tests.benchmarks.in_process import engine, request
from tests.benchmarks.machine import usable_cpus
from tests.benchmarks.prompts import questions, system_prompt
from tests.benchmarks.spread import spread

SHAPE = os.environ.get("CARRIL_BENCH_SHAPE", "1b")
STREAMS, TIMES, PROMPT_TOKENS, N_CTX = 4, 5, 2000, 3072
_INTO_PREFILL_S = 1.0
_POLL_S = 0.001
_LONGEST_S = 60.0


@pytest.mark.timeout(900)
async def test_cancel() -> None:
    run = report.start("cancel")
    model = synthetic_gguf.cached(SHAPE)
    options = {"n_threads": usable_cpus()}
    async with engine(model, n_ctx=N_CTX, n_slots=8, options=options) as loaded:
        decoding = [await cancel_decoding(loaded, number) for number in range(TIMES)]
        prefilling = [await cancel_prefill(loaded, number) for number in range(TIMES)]
    run.publish(
        ratios={},
        absolutes={
            "cancel_decode_ms": spread([1000 * s for s in decoding], "ms"),
            "cancel_prefill_ms": spread([1000 * s for s in prefilling], "ms"),
        },
        notes={"model": f"{SHAPE} shape, Q4_K_M, random weights", "times": TIMES},
    )


async def cancel_decoding(loaded: Engine, number: int) -> float:
    """Return the seconds until one of four running streams has left its slot."""
    asked = [
        request(f"decode-{number}-{i}", question, max_tokens=2000)
        for i, question in enumerate(questions(STREAMS, first=number * STREAMS))
    ]
    begun = [asyncio.Event() for _ in asked]
    readers = [
        asyncio.create_task(_read(loaded, r, event)) for r, event in zip(asked, begun, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    took = await _cancelled(loaded, readers.pop(), leaving=STREAMS - 1)
    for left, reader in enumerate(readers):
        await _cancelled(loaded, reader, leaving=len(readers) - 1 - left)
    return took


async def cancel_prefill(loaded: Engine, number: int) -> float:
    """Return the seconds until a long prompt has left its slot."""
    system = system_prompt(2000 + number, tokens=PROMPT_TOKENS)
    long = request(f"prefill-{number}", "Resume.", system=system, max_tokens=4)
    begun = asyncio.Event()
    reader = asyncio.create_task(_read(loaded, long, begun))
    await _until(lambda: loaded.stats().running == 1)
    with contextlib.suppress(TimeoutError):  # a model so fast has nothing left to cancel
        await asyncio.wait_for(begun.wait(), _INTO_PREFILL_S)
    return await _cancelled(loaded, reader, leaving=0)


async def _read(loaded: Engine, wanted: GenerationRequest, begun: asyncio.Event) -> None:
    async for chunk in loaded.generate(wanted):
        if chunk.usage.completion_tokens >= 3:
            begun.set()


async def _cancelled(loaded: Engine, reader: "asyncio.Task[None]", *, leaving: int) -> float:
    started = time.perf_counter()
    reader.cancel()
    await _until(lambda: loaded.stats().running <= leaving)
    took = time.perf_counter() - started
    await asyncio.wait([reader])
    return took


async def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + _LONGEST_S
    while not is_so():
        assert time.perf_counter() < deadline, "the engine does not get there"
        await asyncio.sleep(_POLL_S)
