"""Where a request's time went, as a real llama.cpp tells it with the last piece of an answer."""

import asyncio
import time
from dataclasses import replace

import pytest

from serve_app.engines.llama_cpp import load
from tests.e2e.engines.asking import ask, chat, model_config, until
from tests.e2e.engines.test_generation import slow_down

STEP_S = 0.01
TOKENS = 20


async def test_last_piece_tells_waiting_prefill_and_decoding_apart(nano):
    plain = {"n_threads": 1, "prompt_lookup": False}  # every step gives one token
    engine = load(model_config(n_slots=1, llama_cpp=plain), nano)
    slow_down(engine, STEP_S)
    request = chat("busco una yipeta", max_tokens=TOKENS, logprobs=0)
    try:
        started = time.monotonic()
        first = asyncio.create_task(ask(engine, replace(request, request_id="first")))
        await until(lambda: engine.stats().running == 1)
        second = await ask(engine, chat("y una guagua", max_tokens=TOKENS, logprobs=0))
        second_s = time.monotonic() - started
        answers = [await first, second]
    finally:
        await engine.close()
    parts = []
    for answer in answers:
        assert [chunk.timings is None for chunk in answer.chunks[:-1]] == [True] * (
            len(answer.chunks) - 1
        )
        timings = answer.chunks[-1].timings
        assert timings is not None
        steps = answer.usage.completion_tokens - 1
        assert timings.decode_s >= 0.9 * steps * STEP_S
        assert timings.prefill_s >= 0.9 * STEP_S
        parts.append(timings)
    assert parts[0].queue_s < STEP_S
    assert parts[1].queue_s >= 0.8 * parts[0].decode_s
    assert parts[1].queue_s + parts[1].prefill_s + parts[1].decode_s == pytest.approx(
        second_s, abs=0.1
    )
