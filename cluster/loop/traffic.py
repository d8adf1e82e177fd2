"""A steady trickle of requests, to see whether anybody would have noticed."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from cluster.loop.config import TrafficPart

_QUESTIONS = (
    "Klk, busco una yipeta pa la familia",
    "Cuánto es la inicial de una Hilux 2020?",
    "Buenas tardes, ¿tienen el Corolla disponible?",
    "Mándame fotos de la CRV",
    "Y eso cuánto sale al mes?",
)
_TIMEOUT_S = 60.0
_MOST_FAILURES_KEPT = 20


@dataclass(slots=True)
class TrafficReport:
    """What the requests met."""

    n_requests: int = 0
    n_failures: int = 0
    failures: list[str] = field(default_factory=list)
    """The first of them."""
    variants: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    """Digits of the hash of the model file that answered."""
    longest_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "n_requests": self.n_requests,
            "n_failures": self.n_failures,
            "failures": self.failures,
            "variants": dict(self.variants),
            "models": dict(self.models),
            "longest_s": round(self.longest_s, 3),
        }


class Traffic:
    """Asks on a thread of its own while it is open.

    No retries: what a client would have seen is what is counted.

    Args:
        url: Address of the API.
        model: Served model.
        part: How much.
        api_key: Key, where the server asks for one.
    """

    def __init__(
        self, url: str, model: str, part: TrafficPart, *, api_key: str | None = None
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            base_url=url, timeout=_TIMEOUT_S, headers=headers, trust_env=False
        )
        self._model, self._part = model, part
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self.report = TrafficReport()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=_TIMEOUT_S + 5)
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            started_s = time.monotonic()
            self._ask()
            took_s = time.monotonic() - started_s
            self.report.longest_s = max(self.report.longest_s, took_s)
            self._stopping.wait(max(0.0, 1 / self._part.requests_per_s - took_s))

    def _ask(self) -> None:
        report = self.report
        report.n_requests += 1
        question = _QUESTIONS[report.n_requests % len(_QUESTIONS)]
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self._part.max_tokens,
        }
        # A session each, so that every variant with traffic is met; no cache, so that a model is.
        headers = {"x-session-id": f"loop-{report.n_requests}", "cache-control": "no-cache"}
        try:
            response = self._client.post("/v1/chat/completions", json=body, headers=headers)
        except httpx.HTTPError as error:
            self._fail(repr(error))
            return
        if response.status_code != 200:
            self._fail(f"{response.status_code}: {response.text[:200]}")
            return
        report.variants[response.headers.get("x-carril-variant", "?")] += 1
        report.models[response.headers.get("x-carril-model", "?")] += 1

    def _fail(self, what: str) -> None:
        self.report.n_failures += 1
        if len(self.report.failures) < _MOST_FAILURES_KEPT:
            self.report.failures.append(what)
