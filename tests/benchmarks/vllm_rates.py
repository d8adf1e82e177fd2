"""How fast vLLM is beside llama.cpp, by requests at once, as `carril size` reads it.

`make bench-vllm` runs it where vLLM is installed. Both engines answer the same questions to OKLA
with its answer schema: llama.cpp from the shipped file, vLLM from the folder unpacked from it. The
engines take turns, and medians over the rounds count. Another folder may be named, for example on a
machine with a GPU: `python -m tests.benchmarks.vllm_rates FOLDER`; vLLM then runs alone, in the
folder's own type.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.whole_file import write_whole
from serve_app.config import ModelConfig, parse_model_config
from serve_app.engines import llama_cpp, vllm
from serve_app.engines.protocol import Engine, GenerationRequest, Message, SamplingParams
from serve_app.model.folders import hash_folder
from serve_app.model.profile import Profile, load_profile
from tests.benchmarks.machine import ROOT, hardware, load
from training.export.huggingface import unpack_gguf

MODEL = ROOT / "models" / "okla" / "okla-v2.Q4_K_M.gguf"
QUESTIONS = (
    "Klk, busco una yipeta pa la familia",
    "¿Cuánto cuesta la Toyota Corolla?",
    "Quiero financiamiento",
    "¿Dónde están ubicados?",
)
AT_ONCE = (1, 4, 8)
REQUESTS = 8
"""Per client and measurement."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a number of clients got in one measurement."""

    tokens_per_s: float
    answers_per_s: float


async def rate(engine: Engine, profile: Profile, clients: int) -> Rate:
    """Let clients ask one after another, each its own questions, and count what comes back."""
    numbers = iter(range(clients * REQUESTS))
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        for number in numbers:
            text = f"{QUESTIONS[number % len(QUESTIONS)]} ({number})"
            system = Message(role="system", content=profile.system_prompt or "")
            request = GenerationRequest(
                request_id=str(number),
                messages=(system, Message(role="user", content=text)),
                sampling=SamplingParams(max_tokens=256, temperature=0),
                json_schema=profile.answer_schema,
            )
            last = 0
            async for chunk in engine.generate(request):
                last = chunk.usage.completion_tokens
            tokens += last

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - started
    return Rate(tokens / seconds, clients * REQUESTS / seconds)


async def measure(engines: dict[str, Engine], profile: Profile, rounds: int) -> dict[str, Any]:
    """Return each engine's medians, by clients."""
    found: dict[str, dict[int, list[Rate]]] = {
        name: {clients: [] for clients in AT_ONCE} for name in engines
    }
    for engine in engines.values():
        await rate(engine, profile, 1)  # warms up
    for number in range(rounds):
        for clients in AT_ONCE:
            order = list(engines.items())
            for name, engine in order if number % 2 == 0 else reversed(order):
                found[name][clients].append(await rate(engine, profile, clients))
            sys.stderr.write(f"round {number + 1}/{rounds}, {clients} at once\n")
    return {
        name: {
            "decode_tokens_per_s": _medians(rates, "tokens_per_s"),
            "answers_per_s": _medians(rates, "answers_per_s"),
        }
        for name, rates in found.items()
    }


def _medians(rates: dict[int, list[Rate]], field: str) -> dict[str, float]:
    return {
        str(clients): round(statistics.median(getattr(one, field) for one in many), 2)
        for clients, many in rates.items()
    }


def _config(engine: str, path: Path, sha256: str, **options: object) -> ModelConfig:
    raw = {"engine": engine, "model": {"path": str(path), "sha256": sha256}, "n_ctx": 1024}
    return parse_model_config(raw | options)


async def run(folder: Path | None, rounds: int) -> dict[str, Any]:
    """Load what is compared, measure, and free it."""
    profile = load_profile(str(ROOT / "models/okla/profile"))
    engines: dict[str, Engine] = {}
    with tempfile.TemporaryDirectory() as scratch:
        options: dict[str, object] = {}
        if folder is None:
            folder = Path(scratch) / "okla-v2"
            unpack_gguf(MODEL, folder)
            # A compiled network is not faster at this size, and takes minutes to start.
            options = {"dtype": "float32", "enforce_eager": True}
            gguf = _config("llama_cpp", MODEL, "0" * 64)
            engines["llama_cpp"] = await asyncio.to_thread(
                llama_cpp.load, gguf, MODEL, profile=profile
            )
        config = _config("vllm", folder, hash_folder(folder).sha256, vllm=options)
        engines["vllm"] = await asyncio.to_thread(vllm.load, config, folder, profile=profile)
        try:
            rates = await measure(engines, profile, rounds)
            details = {name: engine.info.details for name, engine in engines.items()}
        finally:
            for engine in engines.values():
                await engine.close()
    return {
        "machine": hardware(),
        "load_after": load(),
        "engines": rates,
        "details": details,
        "rounds": rounds,
    }


def main() -> None:
    """Measure, print the table, and write one file per engine for `carril size --speed`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", help="Hugging Face folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench")
    options = parser.parse_args()
    report = asyncio.run(run(options.folder, options.rounds))
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "vllm_rates.json", json.dumps(report, indent=2).encode())
    for name, rates in report["engines"].items():
        path = options.out / f"speed-{name}.json"
        write_whole(path, json.dumps(rates, indent=2).encode())
        for clients in AT_ONCE:
            sys.stdout.write(
                f"{name:<10} {clients} at once: {rates['answers_per_s'][str(clients)]:8.2f} "
                f"answers/s {rates['decode_tokens_per_s'][str(clients)]:9.1f} tokens/s\n"
            )
        sys.stdout.write(f"           carril size --speed {path}\n")


if __name__ == "__main__":
    main()
