"""The sizing simulation beside an engine: the same requests at the same times.

The echo engine takes a known time per answer, so that what is compared is the modelling of slots,
replicas and the queue in front of them, not the measuring of speeds.
"""

import asyncio
import time

import numpy as np
import pytest

from cluster.sizing.simulation import System, Traffic, simulate
from serve_app.config import parse_model_config
from serve_app.engines import echo
from serve_app.engines.protocol import GenerationRequest, SamplingParams

N_TOKENS, SLOTS = 10, 2


async def test_simulated_times_are_those_of_an_engine() -> None:
    token_s, load, n = 0.015, 0.85, 120
    engine = echo.load(
        parse_model_config(
            {
                "engine": "echo",
                "n_slots": SLOTS,
                "max_queue": n,
                "echo": {"token_s": token_s, "n_tokens": N_TOKENS + 1},
            }
        )
    )
    rate = load * SLOTS / (N_TOKENS * token_s)
    arrivals = np.cumsum(np.random.default_rng(5).exponential(1 / rate, n))
    started = time.monotonic()

    async def one(number: int) -> float:
        await asyncio.sleep(max(0.0, started + arrivals[number] - time.monotonic()))
        request = GenerationRequest(
            request_id=str(number), sampling=SamplingParams(max_tokens=100), prompt="hola"
        )
        async for _ in engine.generate(request):
            pass
        return time.monotonic() - started - float(arrivals[number])

    measured = np.array(await asyncio.gather(*(one(number) for number in range(n))))
    system = System(replicas=1, slots=SLOTS, totals=np.arange(SLOTS + 1) / token_s, max_ongoing=n)
    traffic = Traffic(
        arrivals=arrivals, prompt_tokens=np.zeros(n), answer_tokens=np.full(n, float(N_TOKENS))
    )
    simulated = simulate(system, traffic, rng=np.random.default_rng(0)).total
    # One queue in order of arrival: request by request, not only in distribution. A busy machine
    # lets timers ring late, which waiting adds up.
    assert np.corrcoef(measured, simulated)[0, 1] > 0.9
    for q in (0.5, 0.95):
        assert np.quantile(measured, q) == pytest.approx(np.quantile(simulated, q), rel=0.3)
    assert np.quantile(simulated, 0.95) > 2 * N_TOKENS * token_s
