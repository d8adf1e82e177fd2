"""The sizing simulation beside an engine and a cluster: the same requests at the same times.

The echo engine takes a known time per answer, so that what is compared is the modelling of slots,
replicas and the queue in front of them, not the measuring of speeds.
"""

import asyncio
import logging
import time

import numpy as np
import pytest

from cluster.sizing.simulation import System, Traffic, simulate
from serve_app.config import parse_model_config
from serve_app.engines import echo
from serve_app.engines.protocol import GenerationRequest, SamplingParams
from tests.integration.conftest import Cluster, chat, split
from tests.integration.gateway.load import Answer, ask, client, failures

logger = logging.getLogger(__name__)

N_TOKENS, TOKEN_S, SLOTS, REPLICAS = 10, 0.04, 2, 2
"""An answer takes 0.4 s; together they make 10 requests/s at most."""
MAX_ONGOING = 64
"""As in the cluster's config."""
LOAD, SECONDS = 0.85, 14.0


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


@pytest.mark.slow  # compares seconds, so it needs a machine that does nothing else
@pytest.mark.timeout(120)
async def test_simulated_times_are_those_of_a_cluster(cluster: Cluster) -> None:
    echo = {"token_s": TOKEN_S, "n_tokens": N_TOKENS + 1}  # the first token takes no time
    await asyncio.to_thread(
        cluster.deploy,
        gateway={"experiments": split(100)},
        stable={"n_slots": SLOTS, "max_queue": MAX_ONGOING, "echo": echo},
    )
    await asyncio.to_thread(cluster.wait_ready)
    rng = np.random.default_rng(17)
    capacity = REPLICAS * SLOTS / (N_TOKENS * TOKEN_S)
    n = int(LOAD * capacity * SECONDS)
    arrivals = np.cumsum(rng.exponential(1 / (LOAD * capacity), n))

    answers = await _ask_at(cluster.url, arrivals.tolist())
    assert failures(answers) == []
    measured = np.array([answer.seconds for answer in answers])

    system = System(
        replicas=REPLICAS,
        slots=SLOTS,
        totals=np.arange(SLOTS + 1) / TOKEN_S,  # slots that do not slow each other down
        max_ongoing=MAX_ONGOING,
        gateways=2,
        router_s=0.005,
    )
    traffic = Traffic(
        arrivals=arrivals, prompt_tokens=np.zeros(n), answer_tokens=np.full(n, float(N_TOKENS))
    )
    runs = [simulate(system, traffic, rng=np.random.default_rng(s)).total for s in range(20)]
    for name, q in (("p50", 0.5), ("p95", 0.95)):
        simulated = float(np.mean([np.quantile(run, q) for run in runs]))
        real = float(np.quantile(measured, q))
        figures = f"{name}: measured {real:.3f} s, simulated {simulated:.3f} s"
        # Routing is a matter of luck, and of what a gateway knows of the replicas. What the machine
        # adds to each answer comes back as waiting, the more of it the nearer the load is to 1.
        assert real == pytest.approx(simulated, rel=0.45, abs=0.15), figures
        logger.info(figures)
    # The load is high enough that a model without waiting would not pass.
    assert float(np.quantile(measured, 0.95)) > 1.4 * N_TOKENS * TOKEN_S


async def _ask_at(url: str, arrivals: list[float]) -> list[Answer]:
    """Ask at given times, whether earlier requests are answered or not."""
    async with client(n_connections=500) as http:
        started = time.monotonic()

        async def one(number: int, at_s: float) -> Answer:
            await asyncio.sleep(max(0.0, started + at_s - time.monotonic()))
            body = chat(f"nueva {number}", temperature=1)
            return await ask(http, url, body, f"sizing-{number}")

        return await asyncio.gather(*(one(n, at_s) for n, at_s in enumerate(arrivals)))
