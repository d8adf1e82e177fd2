"""A long prompt arrives while others read: the longest pause in their answers.

Four streams run; once they have begun, a prompt of 2,000 tokens comes in. What counts is the worst
gap between two pieces of text of the four, from its arrival until its first token.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import pytest

from tests.benchmarks import report, servers, synthetic_gguf
from tests.benchmarks.machine import usable_cpus
from tests.benchmarks.options import comparable
from tests.benchmarks.prompts import questions, system_prompt
from tests.benchmarks.servers import Server, Variant
from tests.benchmarks.sides import Loaded, alternate, chat, send
from tests.benchmarks.spread import percentile, ratios, spread
from tests.benchmarks.stream_load import Planned, Result

SHAPE = os.environ.get("CARRIL_BENCH_SHAPE", "1b")
STREAMS, SLOTS, N_CTX = 4, 8, 3072
LONG_TOKENS = int(os.environ.get("CARRIL_BENCH_LONG_TOKENS", "2000"))
STREAM_TOKENS, LONG_ANSWER_TOKENS = 160, 4
_BEGUN_CHUNKS = 8
_LONG = "long prompt"


@pytest.mark.timeout(1800)
def test_stall() -> None:
    run = report.start("stall")
    found = alternate(_sides(), report.rounds(), measure)
    worst = {side: [max(gaps(load.results)) for load in loads] for side, loads in found.items()}
    p95 = {
        side: [percentile(gaps(load.results), 0.95) for load in loads]
        for side, loads in found.items()
    }
    ttft = {
        side: [_long(load.results).ttft_s or 0.0 for load in loads] for side, loads in found.items()
    }
    run.publish(
        ratios={
            "max_itl_vs_llama_server": ratios(worst["carril"], worst["llama_server"]),
            "long_prompt_ttft_vs_llama_server": ratios(ttft["carril"], ttft["llama_server"]),
        },
        absolutes={
            f"{side}_stall_{name}": spread(values[side], "s")
            for side in found
            for name, values in (
                ("max_gap_s", worst),
                ("p95_gap_s", p95),
                ("long_prompt_ttft_s", ttft),
            )
        },
        notes={
            "model": f"{SHAPE} shape, Q4_K_M, random weights",
            "load": f"{STREAMS} streams of {STREAM_TOKENS} tokens",
            "long prompt, tokens": _long(found["carril"][0].results).prompt_tokens,
        },
    )


def measure(server: Server, number: int) -> Loaded:
    """Run four streams and let the long prompt come in."""
    streams = [
        Planned(body=chat(question, max_tokens=STREAM_TOKENS), label=question)
        for question in questions(STREAMS, first=number * STREAMS)
    ]
    body = chat(
        "Resume todo.",
        system=system_prompt(1000 + number, tokens=LONG_TOKENS),
        max_tokens=LONG_ANSWER_TOKENS,
    )
    return send(server, [*streams, Planned(body=body, label=_LONG, after_chunks=_BEGUN_CHUNKS)])


def gaps(results: Sequence[Result]) -> list[float]:
    """Return the pauses of the running streams that overlap the long prompt's computing.

    Raises:
        ValueError: If all streams had ended before the long prompt came.
    """
    late = _long(results)
    if late.ttft_s is None:
        raise ValueError("the long prompt got no text")
    start, end = late.sent_s, late.sent_s + late.ttft_s
    found = [
        after - before
        for result in results
        if result is not late
        for before, after in zip(result.text_at_s, result.text_at_s[1:], strict=False)
        if after > start and before < end
    ]
    if not found:
        raise ValueError("no stream ran while the long prompt was computed; make them longer")
    return found


def _long(results: Sequence[Result]) -> Result:
    return next(result for result in results if result.label == _LONG)


def _sides() -> Mapping[str, Callable[[], AbstractContextManager[Server]]]:
    model = synthetic_gguf.cached(SHAPE)
    variant = Variant(name="bench", path=model, n_ctx=N_CTX, n_slots=SLOTS, options=comparable())
    arguments = servers.llama_server_arguments(
        n_slots=SLOTS, n_ctx=N_CTX * (SLOTS + 1), n_threads=usable_cpus()
    )
    return {
        "carril": partial(servers.carril, [variant], name="stall"),
        "llama_server": partial(servers.llama_server, model, arguments, name="stall"),
    }
