"""Answers of OpenAI-compatible servers, taken apart after the measuring is over.

While requests run, only the moment and the bytes of each network chunk are kept.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_DATA = b"data:"
_DONE = b"[DONE]"

Timed = tuple[float, bytes]


@dataclass(slots=True)
class Answer:
    """What one answer consisted of, and when."""

    text: str = ""
    text_at: list[float] = field(default_factory=list)
    """Moments at which text arrived."""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    error: str | None = None


def events(chunks: Iterable[Timed]) -> Iterator[Timed]:
    """Yield the payload of each server-sent event with the moment at which it was complete."""
    rest = b""
    for at, data in chunks:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                yield at, line[len(_DATA) :].strip()


def streamed(chunks: Iterable[Timed]) -> Answer:
    """Read a stream of chat completion chunks."""
    answer = Answer()
    for at, payload in events(chunks):
        if payload == _DONE:
            break
        event = json.loads(payload)
        if "error" in event:
            answer.error = json.dumps(event["error"])
            break
        _usage(answer, event)
        for choice in event.get("choices", ()):
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            text = choice.get("delta", {}).get("content")
            if text:
                answer.text += text
                answer.text_at.append(at)
    return answer


def whole(at: float, body: bytes) -> Answer:
    """Read a completion that came in one piece."""
    completion = json.loads(body)
    if "error" in completion:
        return Answer(error=json.dumps(completion["error"]))
    choice = completion["choices"][0]
    answer = Answer(
        text=choice["message"]["content"] or "",
        text_at=[at],
        finish_reason=choice["finish_reason"],
    )
    _usage(answer, completion)
    return answer


def _usage(answer: Answer, event: Mapping[str, Any]) -> None:
    usage = event.get("usage")
    if usage:
        answer.completion_tokens = usage["completion_tokens"]
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
