"""OpenAI response bodies and stream events."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from serve_app.engines.protocol import GenerationChunk, TokenLogprob, Usage

DONE = b"data: [DONE]\n\n"


def sse(payload: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def usage_body(usages: Iterable[Usage]) -> dict[str, Any]:
    """Return the `usage` object for one or several generations."""
    prompt = completion = cached = 0
    for usage in usages:
        prompt += usage.prompt_tokens
        completion += usage.completion_tokens
        cached += usage.cached_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class ChatRenderer:
    """Bodies of /v1/chat/completions."""

    def __init__(self, inference_id: str, model: str, created: int) -> None:
        self.id = inference_id
        self._model = model
        self._created = created

    def complete(
        self, answers: Sequence[tuple[GenerationChunk, str]], fingerprint: str
    ) -> dict[str, Any]:
        """Return the body of a finished answer.

        Args:
            answers: Exactly one finished answer with the text to show.
            fingerprint: What `system_fingerprint` says.
        """
        [(chunk, text)] = answers
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": fingerprint,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": _chat_logprobs(chunk.logprobs),
                    "finish_reason": chunk.finish_reason,
                }
            ],
            "usage": usage_body([chunk.usage]),
        }

    def opening(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the first event of a stream: the role."""
        return self._event({"role": "assistant", "content": "", "refusal": None}, fingerprint)

    def piece(self, chunk: GenerationChunk, text: str, fingerprint: str) -> dict[str, Any] | None:
        """Return the event of a chunk; None if it would be empty."""
        if not text and not chunk.logprobs:
            return None
        event = self._event({"content": text}, fingerprint)
        event["choices"][0]["logprobs"] = _chat_logprobs(chunk.logprobs)
        return event

    def closing(self, finish_reason: str, fingerprint: str) -> dict[str, Any]:
        """Return the event that says why the answer ended."""
        event = self._event({}, fingerprint)
        event["choices"][0]["finish_reason"] = finish_reason
        return event

    def usage(self, usage: Usage, fingerprint: str) -> dict[str, Any]:
        """Return the event with the token counts; it has no choices."""
        event = self._event({}, fingerprint)
        event["choices"] = []
        event["usage"] = usage_body([usage])
        return event

    def _event(self, delta: dict[str, Any], fingerprint: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": fingerprint,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
        }


class CompletionRenderer:
    """Bodies of /v1/completions."""

    def __init__(self, inference_id: str, model: str, created: int) -> None:
        self.id = inference_id
        self._model = model
        self._created = created
        self._offset = 0

    def complete(
        self, answers: Sequence[tuple[GenerationChunk, str]], fingerprint: str
    ) -> dict[str, Any]:
        """Return the body of finished answers, one choice per prompt."""
        body = self._body(fingerprint)
        body["choices"] = [
            {
                "index": index,
                "text": chunk.prompt_text + text,
                "logprobs": _completion_logprobs((*chunk.prompt_logprobs, *chunk.logprobs), 0),
                "finish_reason": chunk.finish_reason,
            }
            for index, (chunk, text) in enumerate(answers)
        ]
        body["usage"] = usage_body(chunk.usage for chunk, _ in answers)
        return body

    def opening(self, fingerprint: str) -> dict[str, Any] | None:  # noqa: ARG002 (one interface)
        """Completions have no opening event."""
        return None

    def piece(self, chunk: GenerationChunk, text: str, fingerprint: str) -> dict[str, Any] | None:
        """Return the event of a chunk; None if it would be empty."""
        shown = chunk.prompt_text + text
        entries = (*chunk.prompt_logprobs, *chunk.logprobs)
        if not shown and not entries:
            return None
        event = self._body(fingerprint)
        event["choices"] = [
            {
                "index": 0,
                "text": shown,
                "logprobs": _completion_logprobs(entries, self._offset),
                "finish_reason": None,
            }
        ]
        self._offset += len(shown)
        return event

    def closing(self, finish_reason: str, fingerprint: str) -> dict[str, Any]:
        """Return the event that says why the answer ended."""
        event = self._body(fingerprint)
        event["choices"] = [
            {"index": 0, "text": "", "logprobs": None, "finish_reason": finish_reason}
        ]
        return event

    def usage(self, usage: Usage, fingerprint: str) -> dict[str, Any]:
        """Return the event with the token counts; it has no choices."""
        return {**self._body(fingerprint), "choices": [], "usage": usage_body([usage])}

    def _body(self, fingerprint: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": fingerprint,
        }


def _chat_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not entries:
        return None
    return {
        "content": [
            {
                "token": entry.token,
                "logprob": entry.logprob,
                "bytes": list(entry.token_bytes),
                "top_logprobs": [
                    {"token": top.token, "logprob": top.logprob, "bytes": list(top.token_bytes)}
                    for top in entry.top
                ],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _completion_logprobs(entries: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
    if not entries:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            {top.token: top.logprob for top in entry.top} if entry.logprob is not None else None
            for entry in entries
        ],
        "text_offset": offsets,
    }
