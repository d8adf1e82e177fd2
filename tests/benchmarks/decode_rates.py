"""Decode rates of our engine, measured in a process that does nothing else.

    python -m tests.benchmarks.decode_rates MODEL SEED SEQUENCES,...

prints one JSON object: tokens per second by number of sequences. A replica has a process of its
own, so has llama-batched-bench, and so has this. In the process of all other benchmarks it was once
a fifth slower; why is not known (five models loaded one after the other in a process are not).
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.engines.protocol import Engine, GenerationRequest, SamplingParams
from tests.benchmarks.in_process import engine
from tests.benchmarks.machine import usable_cpus
from tests.benchmarks.options import comparable

PROMPT_TOKENS, ANSWER_TOKENS = 64, 32
_ORDINARY_TOKENS = 100_000
"""Ids below are text; special tokens come after."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How many tokens a sequence had, and when."""

    at: float
    tokens: int


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


async def rates(model: Path, sequences: Sequence[int], *, seed: int) -> dict[int, float]:
    """Load a model and return the tokens per second by number of sequences."""
    options = {"n_threads": usable_cpus(), **comparable()}
    async with engine(model, n_ctx=256, n_slots=max(sequences), options=options) as loaded:
        await _decode(loaded, 4, seed=-1)  # everything is touched once
        return {n: await _decode(loaded, n, seed=seed) for n in sequences}


async def _decode(loaded: Engine, n: int, *, seed: int) -> float:
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


def main(model: str, seed: str, sequences: str) -> None:
    """Measure and print."""
    numbers = [int(number) for number in sequences.split(",")]
    found = asyncio.run(rates(Path(model), numbers, seed=int(seed)))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
