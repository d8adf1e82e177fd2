"""Sixteen customers at once, one system prompt: carril's whole stack beside llama-server.

Cold: nobody has seen the system prompt before. Warm: the burst again with other questions. Ours is
`carril up` with its gateway and proxy; llama-server runs alone. Both decode the 1B shape greedily,
48 tokens each.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest

from tests.benchmarks import report, servers, synthetic_gguf
from tests.benchmarks.machine import usable_cpus
from tests.benchmarks.options import comparable
from tests.benchmarks.prompts import questions, system_prompt
from tests.benchmarks.servers import Server, Variant
from tests.benchmarks.sides import Loaded, alternate, chat, send
from tests.benchmarks.spread import Spread, ratios, spread
from tests.benchmarks.stream_load import Planned

SHAPE = os.environ.get("CARRIL_BENCH_SHAPE", "1b")
MORE_PEERS = os.environ.get("CARRIL_BENCH_MORE_PEERS") == "1"
"""Measure llama-server with small batches, too (streams stall less, prompts take longer), and
llama-cpp-python's own server."""
REQUESTS, PROMPT_TOKENS, ANSWER_TOKENS, N_CTX = 16, 600, 48, 1024
CLIENTS = (8, 16)
_COLD_TTFT = re.compile(r"cold_max_ttft_c\d+_vs_llama_server")
FIGURES: Mapping[str, Callable[[Loaded], float]] = {
    "requests_per_min": lambda loaded: loaded.requests_per_min(ANSWER_TOKENS),
    "ttft_p50_s": lambda loaded: loaded.ttft(0.5),
    "ttft_max_s": lambda loaded: loaded.ttft(1.0),
    "gap_p50_s": lambda loaded: loaded.gap(0.5),
    "gap_p95_s": lambda loaded: loaded.gap(0.95),
    "gap_p99_s": lambda loaded: loaded.gap(0.99),
    "gap_max_s": lambda loaded: loaded.gap(1.0),
}

Bursts = dict[str, Loaded]


@pytest.mark.timeout(3600)
def test_burst() -> None:
    run = report.start("burst")
    compared: dict[str, Spread] = {}
    absolutes: dict[str, Spread] = {}
    for clients in CLIENTS:
        found = alternate(_sides(clients), report.rounds(), partial(bursts, clients=clients))
        more = summarise(found, clients)
        compared |= more[0]
        absolutes |= more[1]
        # Published as far as it is known: the second half takes long.
        run.publish(ratios=with_worst(compared), absolutes=absolutes, notes=_notes(found))


def bursts(server: Server, number: int, *, clients: int) -> Bursts:
    """Send a cold burst, and with as many clients as requests a warm one after it."""
    found = {"cold": send(server, planned(number, first=0), clients=clients)}
    if clients == REQUESTS:
        found["warm"] = send(server, planned(number, first=REQUESTS), clients=clients)
    return found


def planned(number: int, *, first: int) -> list[Planned]:
    """Return a round's requests; no round shares its system prompt with another."""
    system = system_prompt(number, tokens=PROMPT_TOKENS)
    return [
        Planned(body=chat(question, system=system, max_tokens=ANSWER_TOKENS), label=question)
        for question in questions(REQUESTS, first=first)
    ]


def summarise(
    found: Mapping[str, list[Bursts]], clients: int
) -> tuple[dict[str, Spread], dict[str, Spread]]:
    """Return the ratios of carril to llama-server, and the figures of both."""
    absolutes, compared = {}, {}
    for kind in found["carril"][0]:
        for figure, of in FIGURES.items():
            values = {side: [of(r[kind]) for r in rounds] for side, rounds in found.items()}
            for side, known in values.items():
                unit = "requests/min" if figure == "requests_per_min" else "s"
                absolutes[f"{side}_{kind}_c{clients}_{figure}"] = spread(known, unit)
            for peer in values.keys() - {"carril"}:
                ratio = ratios(values["carril"], values[peer])
                if figure == "requests_per_min":
                    compared[f"{kind}_c{clients}_vs_{peer}"] = ratio
                if figure == "ttft_max_s":
                    compared[f"{kind}_max_ttft_c{clients}_vs_{peer}"] = ratio
    for side, rounds in found.items():
        cpu = [load.client_cpu_s / load.wall_s for r in rounds for load in r.values()]
        absolutes[f"{side}_c{clients}_client_cpus"] = spread(cpu, "CPUs used by the client")
    return compared, absolutes


def with_worst(compared: dict[str, Spread]) -> dict[str, Spread]:
    """Add the time to first token of whichever cold burst does worse in it."""
    cold = [v for name, v in compared.items() if _COLD_TTFT.fullmatch(name)]
    worst = max(cold, key=lambda value: value.median)
    return {**compared, "cold_max_ttft_vs_llama_server": worst}


def _sides(clients: int) -> dict[str, Any]:
    model = synthetic_gguf.cached(SHAPE)

    def ours() -> AbstractContextManager[Server]:
        variant = Variant(
            name="bench", path=model, n_ctx=N_CTX, n_slots=clients, options=comparable()
        )
        return servers.carril([variant], name=f"burst_c{clients}")

    def theirs(ubatch: int) -> AbstractContextManager[Server]:
        arguments = peer_arguments(clients, ubatch)
        return servers.llama_server(model, arguments, name=f"burst_c{clients}_ub{ubatch}")

    sides = {"carril": ours, "llama_server": partial(theirs, 512)}
    if MORE_PEERS:
        sides["llama_server_tuned"] = partial(theirs, 128)
        sides["llama_cpp_server"] = partial(
            servers.llama_cpp_server,
            model,
            n_ctx=N_CTX,
            n_threads=usable_cpus(),
            name=f"burst_c{clients}",
        )
    return sides


def peer_arguments(clients: int, ubatch: int = 512) -> list[str]:
    """Return llama-server's options: as many slots as clients, as much KV memory as carril has."""
    return servers.llama_server_arguments(
        n_slots=clients, n_ctx=N_CTX * (clients + 1), n_threads=usable_cpus(), ubatch=ubatch
    )


def _notes(found: Mapping[str, list[Bursts]]) -> dict[str, Any]:
    return {
        "model": f"{SHAPE} shape, Q4_K_M, random weights",
        "load": f"{REQUESTS} requests sharing a system prompt, {ANSWER_TOKENS} tokens out; as many "
        "slots as clients",
        "prompt tokens": found["carril"][0]["cold"].results[0].prompt_tokens,
        "llama-server": " ".join(peer_arguments(CLIENTS[0])),
    }
