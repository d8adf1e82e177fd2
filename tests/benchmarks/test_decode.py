"""Decoding alone: our engine, in this process, beside llama-batched-bench.

llama-batched-bench decodes random tokens and samples nothing, so it is the ceiling of what a server
on llama.cpp can reach; ours also samples, turns tokens into text and hands it over. Both share one
prompt between all sequences.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_app.engines.protocol import Engine, GenerationRequest, SamplingParams
from tests.benchmarks import peers, report, synthetic_gguf
from tests.benchmarks.in_process import engine
from tests.benchmarks.machine import usable_cpus
from tests.benchmarks.options import comparable
from tests.benchmarks.sides import order
from tests.benchmarks.spread import ratios, spread

SHAPE = os.environ.get("CARRIL_BENCH_SHAPE", "1b")
SEQUENCES = (1, 2, 4, 8, 16)
PROMPT_TOKENS, ANSWER_TOKENS = 64, 32
_ORDINARY_TOKENS = 100_000
"""Ids below are text; special tokens come after."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How many tokens a sequence had, and when."""

    at: float
    tokens: int


@pytest.mark.timeout(1800)
async def test_decode() -> None:
    run = report.start("decode")
    model = synthetic_gguf.cached(SHAPE)
    found: dict[str, dict[int, dict[int, float]]] = {"carril": {}, "batched_bench": {}}
    options = {"n_threads": usable_cpus(), **comparable()}
    async with engine(model, n_ctx=256, n_slots=max(SEQUENCES), options=options) as loaded:
        await decode(loaded, 4, seed=-1)  # everything is touched once
        for side, numbers in order(list(found), report.rounds()):
            for number in numbers:
                sys.stderr.write(f"  round {number + 1} of {report.rounds()}: {side}\n")
                found[side][number] = (
                    {n: await decode(loaded, n, seed=number) for n in SEQUENCES}
                    if side == "carril"
                    else await asyncio.to_thread(batched_bench, model)
                )
    rounds = range(report.rounds())
    by_size = {
        n: {side: [values[r][n] for r in rounds] for side, values in found.items()}
        for n in SEQUENCES
    }
    run.publish(
        ratios={
            f"decode_vs_batched_bench_b{n}": ratios(sides["carril"], sides["batched_bench"])
            for n, sides in by_size.items()
        },
        absolutes={
            f"{side}_decode_b{n}": spread(values, "tokens/s")
            for n, sides in by_size.items()
            for side, values in sides.items()
        },
        notes={
            "model": f"{SHAPE} shape, Q4_K_M, random weights",
            "load": f"{ANSWER_TOKENS} tokens after a shared prompt of {PROMPT_TOKENS}, "
            f"{usable_cpus()} threads",
        },
    )


def decode_rate(sequences: Sequence[Sequence[Moment]]) -> float:
    """Return the tokens per second of all sequences while all of them decode.

    That is from the moment at which the last one has its first token until the first one is done.

    Raises:
        ValueError: If they never decode together.
    """
    start = max(moments[0].at for moments in sequences)
    end = min(moments[-1].at for moments in sequences)
    if end <= start:
        raise ValueError("one sequence ended before the last one began; give them more tokens")
    made = sum(_tokens_at(moments, end) - _tokens_at(moments, start) for moments in sequences)
    return made / (end - start)


def parse_batched_bench(output: str) -> Iterator[tuple[int, float]]:
    """Yield sequences and tokens per second from the JSON lines of llama-batched-bench."""
    for line in output.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            yield row["pl"], row["speed_tg"]


def batched_bench(model: Path) -> dict[int, float]:
    """Return the tokens per second of llama-batched-bench by number of sequences."""
    folder, threads = peers.programs(), str(usable_cpus())
    n_ctx = PROMPT_TOKENS + max(SEQUENCES) * ANSWER_TOKENS + 256
    command = [str(folder / "llama-batched-bench"), "-m", str(model), "-c", str(n_ctx)]
    command += ["-npp", str(PROMPT_TOKENS), "-ntg", str(ANSWER_TOKENS), "-pps", "-kvu"]
    command += ["-npl", ",".join(map(str, SEQUENCES)), "-fa", "on", "-b", "2048", "-ub", "512"]
    command += ["-t", threads, "-tb", threads, "--output-format", "jsonl"]
    done = subprocess.run(
        command,
        env=peers.environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=900,
    )
    rates = dict(parse_batched_bench(done.stdout))
    assert set(rates) == set(SEQUENCES), done.stdout[-2000:]
    return rates


async def decode(loaded: Engine, n: int, *, seed: int) -> float:
    """Return the tokens per second of `n` sequences in our engine."""
    rng = random.Random(seed)
    prompt = tuple(rng.randrange(_ORDINARY_TOKENS) for _ in range(PROMPT_TOKENS))
    # A few tokens more than are counted: sequences start one after another.
    asked = ANSWER_TOKENS + n
    return decode_rate(
        await asyncio.gather(*(_sequence(loaded, f"{seed}-{i}", prompt, asked) for i in range(n)))
    )


async def _sequence(
    loaded: Engine, name: str, prompt: tuple[int, ...], n_tokens: int
) -> list[Moment]:
    request = GenerationRequest(
        request_id=name,
        prompt=prompt,
        sampling=SamplingParams(max_tokens=n_tokens, temperature=0),
    )
    return [
        Moment(time.perf_counter(), chunk.usage.completion_tokens)
        async for chunk in loaded.generate(request)
        if chunk.usage.completion_tokens
    ]


def _tokens_at(moments: Sequence[Moment], at: float) -> int:
    return max((moment.tokens for moment in moments if moment.at <= at), default=0)
