"""Answers that follow OKLA's JSON schema: valid ones per minute, carril beside llama-server.

Both get the same schema in `response_format`, the same system prompt and the same questions. On the
shipped model answers are real, and so are the questions: each is asked once of each server. Its
replies follow from the intent, so they repeat themselves, and what was said before can be guessed.
carril does so by default (`answer_memory`); llama-server has something alike, shared by its slots
(`ngram-mod`), and runs with and without it: the better one counts. On the 1B shape with random
weights every free choice is noise, so the schema is bounded (`bounded`): short texts, and an
integer for the confidence, whose range llama-server's grammar holds, too. Only answers that
jsonschema accepts count.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.benchmarks import report, servers, synthetic_gguf
from tests.benchmarks.machine import ROOT, usable_cpus
from tests.benchmarks.options import comparable
from tests.benchmarks.prompts import questions, system_prompt, written
from tests.benchmarks.servers import Server, Variant
from tests.benchmarks.sides import Loaded, alternate, chat, send
from tests.benchmarks.spread import Spread, ratios, spread
from tests.benchmarks.stream_load import Planned, Result

SHAPE = os.environ.get("CARRIL_BENCH_SHAPE", "1b")
PROFILE = ROOT / "models/okla/profile"
MODEL = ROOT / "models/okla" / f"{os.environ.get('CARRIL_BENCH_OKLA', 'okla-v1')}.Q4_K_M.gguf"
SLOTS, N_CTX, MAX_TOKENS = 8, 1024, 256
OKLA_REQUESTS, SHAPE_REQUESTS, SHAPE_PROMPT_TOKENS = 320, 16, 300
NGRAMS = {
    "--spec-type": "ngram-mod",
    "--spec-ngram-mod-n-match": 8,
    "--spec-ngram-mod-n-min": 1,
    "--spec-ngram-mod-n-max": 48,
}
"""llama-server's guesses from earlier text, for answers of some 40 tokens: by default it looks for
24 tokens in common and guesses nothing under 48."""
WARM_UP_REQUESTS = 32
"""Of the shipped model, whose answers take milliseconds: a rate is that of a server at work."""
_TEXT_CHARS, _REPLY_CHARS = 40, 12

Sides = Mapping[str, Callable[[], AbstractContextManager[Server]]]


@pytest.mark.timeout(1800)
def test_okla() -> None:
    schema = okla_schema()
    system = (PROFILE / "system_prompt.txt").read_text(encoding="utf-8").strip()
    run = report.start("okla_json")

    def measure(server: Server, number: int) -> Loaded:
        first = number * (WARM_UP_REQUESTS + OKLA_REQUESTS)
        asked = planned(written(WARM_UP_REQUESTS + OKLA_REQUESTS, first=first), system, schema)
        send(server, asked[:WARM_UP_REQUESTS], clients=SLOTS)
        return send(server, asked[WARM_UP_REQUESTS:], clients=SLOTS)

    found = alternate(_okla_sides(), report.rounds(), measure)
    compared, absolutes = summarise(found, schema, "okla_json")
    run.publish(
        # Threads that meet at barriers cost so small a model more than they bring: whatever is best
        # for llama-server counts.
        ratios=with_best_peer(compared, "okla_json_vs_llama_server"),
        absolutes=absolutes,
        notes={
            "novelty": novelty(found["carril"]),
            "model": MODEL.name,
            "load": f"{OKLA_REQUESTS} requests, {SLOTS} clients, {SLOTS} slots, OKLA's schema",
        },
    )


@pytest.mark.timeout(3000)
def test_shape() -> None:
    schema = bounded(okla_schema())
    run = report.start("okla_json_1b")

    def measure(server: Server, number: int) -> Loaded:
        system = system_prompt(number, tokens=SHAPE_PROMPT_TOKENS)
        return send(server, planned(questions(SHAPE_REQUESTS), system, schema), clients=SLOTS)

    found = alternate(_shape_sides(), report.rounds(), measure)
    compared, absolutes = summarise(found, schema, "okla_json_1b")
    run.publish(
        ratios=compared,
        absolutes=absolutes,
        notes={
            "model": f"{SHAPE} shape, Q4_K_M, random weights",
            "load": f"{SHAPE_REQUESTS} requests sharing a cold system prompt of about "
            f"{SHAPE_PROMPT_TOKENS} tokens, {SLOTS} clients, {SLOTS} slots, bounded schema",
        },
    )


def okla_schema() -> dict[str, Any]:
    """Return the schema of the shipped profile."""
    schema: dict[str, Any] = json.loads(
        (PROFILE / "answer.schema.json").read_text(encoding="utf-8")
    )
    return schema


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with short texts and an integer confidence."""
    properties = {
        **schema["properties"],
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        "response": {"type": "string", "maxLength": _TEXT_CHARS},
        "quickReplies": {
            "type": "array",
            "items": {"type": "string", "maxLength": _REPLY_CHARS},
            "maxItems": 3,
        },
    }
    return {**schema, "properties": properties}


def planned(asked: Sequence[str], system: str, schema: Mapping[str, Any]) -> list[Planned]:
    """Return requests for answers that follow a schema."""
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "okla", "strict": True, "schema": schema},
    }
    return [
        Planned(
            body=chat(question, system=system, max_tokens=MAX_TOKENS, response_format=wanted),
            label=question,
        )
        for question in asked
    ]


def is_valid(result: Result, schema: Mapping[str, Any]) -> bool:
    """Return whether an answer is JSON that follows the schema, and ended by itself."""
    try:
        jsonschema.validate(json.loads(result.text), schema)
    except (ValueError, jsonschema.ValidationError):
        return False
    return result.finish_reason == "stop"


def summarise(
    found: Mapping[str, Sequence[Loaded]], schema: Mapping[str, Any], name: str
) -> tuple[dict[str, Spread], dict[str, Spread]]:
    """Return ratios of valid answers per minute, and the figures of every side."""
    rates: dict[str, list[float]] = {}
    absolutes: dict[str, Spread] = {}
    for side, rounds in found.items():
        valid = [sum(is_valid(r, schema) for r in load.results) for load in rounds]
        counts = list(zip(rounds, valid, strict=True))
        rates[side] = [n / load.wall_s * 60 for load, n in counts]
        figures = {
            "requests_per_min": (rates[side], "valid answers/min"),
            "valid_rate": ([n / len(load.results) for load, n in counts], ""),
            "tokens_per_answer": (
                [load.completion_tokens / len(load.results) for load in rounds],
                "tokens",
            ),
            "tokens_per_s": ([load.completion_tokens / load.wall_s for load in rounds], "tokens/s"),
            "ttft_p50_s": ([load.ttft(0.5) for load in rounds], "s"),
        }
        absolutes |= {
            f"{side}_{name}_{figure}": spread(values, unit)
            for figure, (values, unit) in figures.items()
        }
    compared = {}
    for peer in rates.keys() - {"carril"}:
        compared[f"{name}_vs_{peer}"] = ratios(rates["carril"], rates[peer])
        # Beside it, because answers differ in length: white space and decimals that a peer allows.
        speeds = (
            [load.completion_tokens / load.wall_s for load in found[s]] for s in ("carril", peer)
        )
        compared[f"{name}_tokens_per_s_vs_{peer}"] = ratios(*speeds)
    return compared, absolutes


def novelty(rounds: Sequence[Loaded]) -> str:
    """Return how many of the answers were different ones."""
    texts = [result.text for load in rounds for result in load.results]
    return f"{len(texts)} different questions, {len(set(texts))} different answers"


def with_best_peer(compared: Mapping[str, Spread], name: str) -> dict[str, Spread]:
    """Add under `name` the ratio to whichever peer does best."""
    rates = [value for key, value in compared.items() if key.startswith(name)]
    return {**compared, name: min(rates, key=lambda value: value.median)}


def _okla_sides() -> Sides:
    variant = Variant(name="okla", path=MODEL, n_ctx=N_CTX, n_slots=SLOTS, profile=PROFILE)
    sides: dict[str, Callable[[], AbstractContextManager[Server]]] = {
        "carril": partial(servers.carril, [variant], name="okla_json")
    }
    for threads in sorted({1, usable_cpus()}):
        sides[f"llama_server_t{threads}"] = partial(_peer, MODEL, threads, name="okla_json")
        guesses = partial(_peer, MODEL, threads, name="okla_json_ngrams", more=NGRAMS)
        sides[f"llama_server_ngrams_t{threads}"] = guesses
    return sides


def _shape_sides() -> Sides:
    model = synthetic_gguf.cached(SHAPE)
    variant = Variant(name="bench", path=model, n_ctx=N_CTX, n_slots=SLOTS, options=comparable())
    return {
        "carril": partial(servers.carril, [variant], name="okla_json_1b"),
        "llama_server": partial(_peer, model, usable_cpus(), name="okla_json_1b"),
    }


def _peer(
    model: Path, threads: int, *, name: str, more: Mapping[str, Any] | None = None
) -> AbstractContextManager[Server]:
    arguments = servers.llama_server_arguments(
        n_slots=SLOTS, n_ctx=N_CTX * (SLOTS + 1), n_threads=threads
    )
    arguments += [word for pair in (more or {}).items() for word in map(str, pair)]
    return servers.llama_server(model, arguments, name=f"{name}_t{threads}")
