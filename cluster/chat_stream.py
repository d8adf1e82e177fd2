"""One streamed answer of the OpenAI API, with what carril says about it."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.errors import CommandError, ExitCode, infrastructure

_TIMEOUT = httpx.Timeout(10.0, read=600.0)


@dataclass(slots=True)
class Answer:
    """An answer, and how long it took."""

    headers: Mapping[str, str]
    started_s: float
    text: str = ""
    first_token_s: float | None = None
    """Seconds from the request to the first text."""
    total_s: float = 0.0
    completion_tokens: int | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Speed after the first token; None where it says nothing."""
        if self.completion_tokens is None or self.first_token_s is None:
            return None
        seconds = self.total_s - self.first_token_s
        return (self.completion_tokens - 1) / seconds if seconds > 0.001 else None

    def summary(self) -> str:
        """Return variant, cache state and speed on one line."""
        parts = [
            f"{label} {self.headers[name]}"
            for label, name in (
                ("variant", "x-carril-variant"),
                ("cache", "x-carril-cache"),
                ("exposure", "x-carril-exposure"),
            )
            if name in self.headers
        ]
        if self.completion_tokens is not None:
            parts.append(f"{self.completion_tokens} tokens")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        if self.first_token_s is not None:
            parts.append(f"first after {self.first_token_s * 1000:.0f} ms")
        return " · ".join(parts)


class ChatClient:
    """Asks one server for streamed chat completions.

    Args:
        url: Address of the API, without `/v1`.
        api_key: Key, where the server wants one.
        session: Value of `x-session-id`; decides the variant.
        transport: Replaced in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        session: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"x-session-id": session}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.url = url
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=False, transport=transport
        )

    def ask(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        on_text: Callable[[str], None],
    ) -> Answer:
        """Ask, and return the whole answer.

        Args:
            model: Served model, with `@variant` to pin one.
            messages: The conversation.
            on_text: Called with each piece of text as it arrives.

        Raises:
            CommandError: If the server is not there, refuses, or breaks off.
        """
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started_s = time.monotonic()
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                answer = Answer(headers=response.headers, started_s=started_s)
                for event in _events(response.iter_lines()):
                    piece = _take(event, answer)
                    answer.total_s = time.monotonic() - started_s
                    if piece:
                        on_text(piece)
                return answer
        except httpx.ConnectError as error:
            raise infrastructure(
                f"no server answers at {self.url}", "start one with: carril up"
            ) from error
        except httpx.HTTPError as error:
            raise infrastructure(
                f"the connection to {self.url} broke: {type(error).__name__}"
            ) from error


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            raise CommandError(f"the server broke the answer off: {event['error'].get('message')}")
        yield event
    raise CommandError("the answer ended without its end mark; it may be incomplete")


def _take(event: Mapping[str, Any], answer: Answer) -> str:
    usage = event.get("usage")
    if usage:
        answer.completion_tokens = usage.get("completion_tokens")
    choices = event.get("choices") or []
    piece = (choices[0].get("delta") or {}).get("content") if choices else None
    if not piece:
        return ""
    if answer.first_token_s is None:
        answer.first_token_s = time.monotonic() - answer.started_s
    answer.text += piece
    return str(piece)


def _refusal(response: httpx.Response) -> CommandError:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text.strip() or response.reason_phrase
    if response.status_code in (401, 403):
        return CommandError(str(message), "give a key: --api-key or CARRIL_API_KEY", ExitCode.AUTH)
    code = ExitCode.INFRASTRUCTURE if response.status_code >= 500 else ExitCode.FAILED
    return CommandError(f"{message} (HTTP {response.status_code})", None, code)
