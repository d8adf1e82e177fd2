"""Decoding alone: our engine, in a process of its own, beside llama-batched-bench.

llama-batched-bench decodes random tokens and samples nothing, so it is the ceiling of what a server
on llama.cpp can reach; ours also samples, turns tokens into text and hands it over. Both share one
prompt between all sequences.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import peers, report, synthetic_gguf
from tests.benchmarks.decode_rates import ANSWER_TOKENS, PROMPT_TOKENS
from tests.benchmarks.machine import ROOT, usable_cpus
from tests.benchmarks.sides import order
from tests.benchmarks.spread import ratios, spread

SHAPE = os.environ.get("CARRIL_BENCH_SHAPE", "1b")
SEQUENCES = (1, 2, 4, 8, 16)


@pytest.mark.timeout(1800)
def test_decode() -> None:
    run = report.start("decode")
    model = synthetic_gguf.cached(SHAPE)
    found: dict[str, dict[int, dict[int, float]]] = {"carril": {}, "batched_bench": {}}
    for side, numbers in order(list(found), report.rounds()):
        for number in numbers:
            sys.stderr.write(f"  round {number + 1} of {report.rounds()}: {side}\n")
            found[side][number] = (
                carril(model, number) if side == "carril" else batched_bench(model)
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


def carril(model: Path, number: int) -> dict[int, float]:
    """Return the tokens per second of our engine by number of sequences."""
    wanted = ",".join(map(str, SEQUENCES))
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.decode_rates", str(model), str(number), wanted],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    return {int(n): rate for n, rate in json.loads(done.stdout.splitlines()[-1]).items()}
