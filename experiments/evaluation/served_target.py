"""A served model as target: the OpenAI chat API over HTTP."""

import random
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import httpx

from experiments.evaluation.errors import TargetDenied, TargetUnavailable
from experiments.evaluation.intents import (
    N_CANDIDATES,
    intent_probabilities,
    intent_probability,
)
from experiments.evaluation.items import Item
from experiments.evaluation.openai_answer import scored_tokens
from experiments.evaluation.profile import Profile
from experiments.evaluation.report import TargetInfo
from experiments.evaluation.target import Reply

MAX_REPLY_TOKENS = 256
_TIMEOUT = httpx.Timeout(10.0, read=300.0)
_BUSY = (429, 503)
_REFUSED = (400, 422)
_MOST_TRIES = 6
_LONGEST_WAIT_S = 30.0
_LOGPROBS: dict[str, object] = {"logprobs": True, "top_logprobs": N_CANDIDATES}


class _Weights(NamedTuple):
    """What a replica answers with."""

    sha256: str
    prior_sha256: str | None


class ServedTarget:
    """A model behind a server.

    Args:
        url: Address of the API, without `/v1`.
        model: Served model; `okla-chat@stable` pins a variant.
        profile: System prompt for items with inventory; others get the server's own.
        api_key: Key, where the server wants one.
        workers: Requests at the same time.
        grammar: Whether the server forces the answer's form; only told, never checked.
        transport: Replaced in tests.

    Raises:
        TargetUnavailable: If nothing answers there, or it does not serve that model.
    """

    def __init__(
        self,
        url: str,
        model: str,
        profile: Profile,
        *,
        api_key: str | None = None,
        workers: int = 4,
        grammar: bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        # Each answer is generated anew: a cached one has no latency of its own. Users go first.
        headers = {"cache-control": "no-store", "x-carril-priority": "batch"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=_TIMEOUT,
            trust_env=False,
            transport=transport,
            limits=httpx.Limits(max_connections=workers),
        )
        self.workers = workers
        self._url, self._model, self._profile, self._grammar = url, model, profile, grammar
        self._lock = threading.Lock()
        self._digests: set[str] = set()
        self._variants: set[str] = set()
        self._logprobs = _LOGPROBS
        self._check()

    def answer(self, item: Item) -> Reply:
        """Ask one item; waits and asks again where the server is busy."""
        started = time.monotonic()
        try:
            response, latency_s = self._post(item)
        except httpx.HTTPError as err:
            return Reply(error=f"{type(err).__name__}: {err}", latency_s=time.monotonic() - started)
        if response.status_code != httpx.codes.OK:
            return Reply(
                error=f"HTTP {response.status_code}: {_message(response)}", latency_s=latency_s
            )
        with self._lock:
            self._digests.add(response.headers.get("x-carril-model", ""))
            self._variants.add(response.headers.get("x-carril-variant", ""))
        try:
            return self._reply(response.json(), latency_s)
        except (ValueError, KeyError, IndexError, TypeError) as err:
            return Reply(error=f"not an OpenAI answer: {err!r}", latency_s=latency_s)

    def info(self) -> TargetInfo:
        """Say what was measured, with the hashes where the server tells one for all answers."""
        with self._lock:
            digests, variants = self._digests - {""}, self._variants - {""}
        weights = self._weights(next(iter(digests)), variants) if len(digests) == 1 else None
        return TargetInfo(
            kind="served",
            name=self._model,
            version=", ".join(sorted(digests)) or None,
            sha256=None if weights is None else weights.sha256,
            grammar=self._grammar,
            prior_sha256=None if weights is None else weights.prior_sha256,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _check(self) -> None:
        try:
            response = self._client.get("/v1/models")
        except httpx.HTTPError as err:
            raise TargetUnavailable(
                f"Nothing answers at {self._url!r}: {err}", "start the server: carril up"
            ) from err
        _refuse_denied(response)
        try:
            known = [str(entry["id"]) for entry in response.json()["data"]]
        except (ValueError, KeyError, TypeError) as err:
            raise TargetUnavailable(
                f"{self._url!r} is no OpenAI API: /v1/models answers HTTP {response.status_code}"
            ) from err
        if self._model.split("@", 1)[0] not in known and self._model not in known:
            raise TargetUnavailable(
                f"{self._url!r} does not serve {self._model!r}", f"it serves: {', '.join(known)}"
            )

    def _post(self, item: Item) -> tuple[httpx.Response, float]:
        for attempt in range(_MOST_TRIES):
            sent = self._logprobs
            started = time.monotonic()
            response = self._client.post("/v1/chat/completions", json=self._body(item) | sent)
            latency_s = time.monotonic() - started
            _refuse_denied(response)
            if response.status_code in _REFUSED and sent:
                if "logprobs" in (message := _message(response)):
                    fewer = "top_logprobs" in message and "top_logprobs" in sent
                    self._logprobs = {"logprobs": True} if fewer else {}
                    continue
            elif response.status_code in _BUSY and attempt + 1 < _MOST_TRIES:
                time.sleep(_wait_s(response.headers, attempt))
                continue
            break
        return response, latency_s

    def _body(self, item: Item) -> dict[str, Any]:
        messages = item.prompt(self._profile.system_prompt)
        if not item.inventory and item.messages[0].role != "system":
            del messages[0]  # the server puts its own profile's prompt there
        return {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": MAX_REPLY_TOKENS,
        }

    def _reply(self, document: Mapping[str, Any], latency_s: float) -> Reply:
        choice = document["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError(f"content is {text!r}")
        tokens = scored_tokens(choice)
        usage = document.get("usage") or {}
        return Reply(
            text=text,
            finished=choice.get("finish_reason") == "stop",
            probability=intent_probability(tokens),
            probabilities=intent_probabilities(tokens, self._profile.intents),
            latency_s=latency_s,
            completion_tokens=usage.get("completion_tokens"),
        )

    def _weights(self, prefix: str, variants: Collection[str]) -> _Weights | None:
        try:
            document = self._client.get("/readyz").json()
        except (httpx.HTTPError, ValueError):
            return None
        shown = document.get("variants") if isinstance(document, dict) else None
        if isinstance(shown, dict) and (answering := [shown[v] for v in variants if v in shown]):
            document = answering  # others may have the same weights with another prior
        found = {w for w in _weights_in(document) if w.sha256.startswith(prefix)}
        return found.pop() if len(found) == 1 else None


def _wait_s(headers: Mapping[str, str], attempt: int) -> float:
    try:
        wanted = float(headers.get("retry-after", ""))
    except ValueError:
        wanted = 0.5 * 2.0**attempt
    # Jitter, so that all workers do not come back at once.
    return min(_LONGEST_WAIT_S, wanted * random.uniform(1.0, 1.5))  # noqa: S311 (no secret)


def _refuse_denied(response: httpx.Response) -> None:
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise TargetDenied(_message(response), "give a key: --api-key or CARRIL_API_KEY")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _weights_in(document: object) -> Iterator[_Weights]:
    if isinstance(document, dict):
        digest = document.get("model_sha256")
        if isinstance(digest, str):
            prior = document.get("intent_prior_sha256")
            yield _Weights(digest, prior if isinstance(prior, str) else None)
        document = list(document.values())
    if isinstance(document, list):
        for value in document:
            yield from _weights_in(value)
