"""Two or more servers under the same load, taking turns.

Rounds go A B, B A, A B, ... so that a machine that slows down or speeds up favours nobody; a
server stays up over its neighbouring rounds. Only one of them runs at a time: what an idle server
does in the background would be charged to the other.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.benchmarks.machine import ROOT
from tests.benchmarks.servers import Server
from tests.benchmarks.spread import percentile
from tests.benchmarks.stream_load import Planned, Result, failures

_T = TypeVar("_T")
_LONGEST_S = 900.0


def order(sides: Sequence[str], rounds: int) -> Iterator[tuple[str, list[int]]]:
    """Yield whose turn it is, and for which rounds."""
    turns = [
        (side, number)
        for number in range(rounds)
        for side in (sides if number % 2 == 0 else reversed(sides))
    ]
    for side, group in itertools.groupby(turns, key=lambda turn: turn[0]):
        yield side, [number for _, number in group]


def alternate(
    sides: Mapping[str, Callable[[], AbstractContextManager[Server]]],
    rounds: int,
    measure: Callable[[Server, int], _T],
) -> dict[str, list[_T]]:
    """Measure every side once per round.

    Args:
        sides: How to start each server.
        rounds: How often.
        measure: Called with a running server and the number of the round.

    Returns:
        The values of every side, by round.
    """
    found: dict[str, dict[int, _T]] = {side: {} for side in sides}
    for side, numbers in order(list(sides), rounds):
        with sides[side]() as server:
            for number in numbers:
                sys.stderr.write(f"  round {number + 1} of {rounds}: {side}\n")
                found[side][number] = measure(server, number)
    return {side: [values[n] for n in range(rounds)] for side, values in found.items()}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a client saw."""

    results: list[Result]
    wall_s: float
    client_cpu_s: float

    def ttft(self, share: float) -> float:
        """Return a percentile of the time to the first text, in seconds."""
        return percentile([r.ttft_s for r in self.results if r.ttft_s is not None], share)

    def gap(self, share: float) -> float:
        """Return a percentile of the pauses between pieces of text, in seconds."""
        return percentile([gap for r in self.results for gap in r.gaps_s], share)

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers; pieces of text where a server does not count tokens."""
        return sum(r.completion_tokens or len(r.text_at_s) for r in self.results)

    def requests_per_min(self, tokens_each: int) -> float:
        """Return the rate at equal lengths: an answer that ended early counts for its part."""
        return self.completion_tokens / tokens_each / self.wall_s * 60


def send(server: Server, planned: Sequence[Planned], *, clients: int | None = None) -> Loaded:
    """Send requests from a process of their own.

    Args:
        server: Where to.
        planned: What; see `stream_load`.
        clients: How many work through them; None sends each at its own time.

    Raises:
        RuntimeError: If one was not answered to the end.
    """
    requests = [
        {
            "body": {"model": server.model, **r.body},
            "label": r.label,
            "at_s": r.at_s,
            "after_chunks": r.after_chunks,
        }
        for r in planned
    ]
    plan = {"url": server.url, "requests": requests, "clients": clients}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.stream_load"],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=_LONGEST_S,
    )
    answer = json.loads(done.stdout)
    results = [Result(**result) for result in answer["results"]]
    failed = failures(results)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(results)} requests failed: {failed[0]}")
    return Loaded(results, answer["wall_s"], answer["client_cpu_s"])


def chat(
    question: str, *, system: str | None = None, max_tokens: int, **more: Any
) -> dict[str, Any]:
    """Return the body of a streamed, greedy chat completion."""
    messages = [{"role": "user", "content": question}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {
        "messages": messages,
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
