"""What each of the engine's own switches brings: the same work with one of them off.

Two kinds of work, in this process: a cold burst with a shared system prompt on the 1B shape, and
JSON answers of the shipped model. Every row loads the model anew. `without_X_burst` is requests per
second without X, divided by those with everything on: below 1, X helps.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serve_app.engines.protocol import Engine, GenerationRequest
from tests.benchmarks import options, report, synthetic_gguf
from tests.benchmarks.in_process import engine, request
from tests.benchmarks.prompts import questions, system_prompt, written
from tests.benchmarks.spread import Spread, ratios, spread
from tests.benchmarks.test_json_answers import MODEL, PROFILE, okla_schema

SHAPE = os.environ.get("CARRIL_BENCH_SHAPE", "1b")
ROUNDS = max(1, report.rounds() - 1)
"""One less than elsewhere: there are many rows, and no claim about a peer."""
JSON_REQUESTS = 128
_BASE = "all_on"
_CLIENTS = 8
"""As many as slots, so that no request waits for more than its turn."""


class Work(NamedTuple):
    """Something to do with one model."""

    model: Path
    n_ctx: int
    requests: list[GenerationRequest]
    profile: Path | None = None
    base: Mapping[str, Any] = {}
    """Options of every row."""


@pytest.mark.timeout(3000)
async def test_ablation() -> None:
    run = report.start("ablation")
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(ROUNDS):
        for kind, work in works(number).items():
            for row, changed in turns(number):
                if not changed.items() & work.base.items():
                    found.setdefault((kind, row), []).append(await measure(work, changed))
    compared, absolutes = summarise(found)
    run.publish(
        ratios=compared,
        absolutes=absolutes,
        notes={
            "burst": f"{SHAPE} shape, 8 requests sharing 300 tokens, 16 tokens out",
            "json": f"{MODEL.name}, {JSON_REQUESTS} requests with OKLA's schema, each asked once",
        },
    )


def works(number: int) -> dict[str, Work]:
    """Return a round's work."""
    system = system_prompt(3000 + number, tokens=300)
    burst = [
        request(f"burst-{i}", question, system=system, max_tokens=16)
        for i, question in enumerate(questions(8))
    ]
    schema = json.dumps(okla_schema())
    okla = (PROFILE / "system_prompt.txt").read_text(encoding="utf-8").strip()
    answers = [
        request(f"json-{i}", question, system=okla, max_tokens=256, schema=schema)
        for i, question in enumerate(written(JSON_REQUESTS, first=JSON_REQUESTS * number))
    ]
    return {
        "burst": Work(synthetic_gguf.cached(SHAPE), 1024, burst, base=options.comparable()),
        "json": Work(MODEL, 1024, answers, PROFILE),
    }


def turns(number: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows, forwards and backwards in turn."""
    rows = list(options.rows().items())
    yield from rows if number % 2 == 0 else reversed(rows)


async def measure(work: Work, changed: Mapping[str, Any]) -> float:
    """Return requests per second."""
    async with engine(
        work.model,
        n_ctx=work.n_ctx,
        n_slots=_CLIENTS,
        options={**work.base, **changed},
        profile=work.profile,
    ) as loaded:
        at_once = asyncio.Semaphore(_CLIENTS)
        started = time.perf_counter()
        await asyncio.gather(*(_answer(loaded, wanted, at_once) for wanted in work.requests))
        return len(work.requests) / (time.perf_counter() - started)


def summarise(
    found: Mapping[tuple[str, str], Sequence[float]],
) -> tuple[dict[str, Spread], dict[str, Spread]]:
    """Return what is left of the speed without each switch, and all speeds."""
    compared = {
        f"{row.replace('no_', 'without_', 1)}_{kind}": ratios(values, found[kind, _BASE])
        for (kind, row), values in found.items()
        if row != _BASE
    }
    absolutes = {
        f"ablation_{kind}_{row}": spread(values, "requests/s")
        for (kind, row), values in found.items()
    }
    return compared, absolutes


async def _answer(loaded: Engine, wanted: GenerationRequest, at_once: asyncio.Semaphore) -> None:
    async with at_once:
        async for _ in loaded.generate(wanted):
            pass
