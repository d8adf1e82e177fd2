"""What goes over the socket: a stream's secret, a length, and a batch of chunks as JSON.

JSON and not pickle: whoever reaches the port may at most send text that nobody waits for.
"""

import struct
from dataclasses import asdict
from typing import Any

import orjson

from serve_app.engines.protocol import GenerationChunk, GenerationRequest, Timings, Usage
from serve_app.model.calls import AdapterHashes, ModelIdentity, ReplyBatch

SECRET_BYTES = 16
HEADER = struct.Struct(f"!{SECRET_BYTES}sI")
MAX_FRAME_BYTES = 4 << 20


def can_carry(request: GenerationRequest) -> bool:
    """Tell whether the answer is text alone: log-probabilities take Serve's own way."""
    return request.sampling.logprobs is None and not request.echo


def encode(secret: bytes, batch: ReplyBatch) -> bytes:
    """Return a batch as it is sent.

    Args:
        secret: Names the stream, `SECRET_BYTES` long.
        batch: Chunks without log-probabilities.
    """
    document: dict[str, Any] = {"chunks": [_chunk(chunk) for chunk in batch.chunks]}
    if batch.identity is not None:
        document["identity"] = asdict(batch.identity)
    if batch.joined:
        document["joined"] = True
    payload = orjson.dumps(document, default=list)
    return HEADER.pack(secret, len(payload)) + payload


def decode(payload: bytes) -> ReplyBatch:
    """Return the batch that `encode` was given.

    Raises:
        ValueError: If it is none.
    """
    try:
        document = orjson.loads(payload)
        identity = document.get("identity")
        return ReplyBatch(
            chunks=tuple(_read_chunk(fields) for fields in document["chunks"]),
            identity=None if identity is None else _read_identity(identity),
            joined=document.get("joined", False),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no batch of chunks: {error}") from error


def _chunk(chunk: GenerationChunk) -> list[Any]:
    usage, timings = chunk.usage, chunk.timings
    return [
        chunk.text,
        [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens],
        chunk.finish_reason,
        None if timings is None else [timings.queue_s, timings.prefill_s, timings.decode_s],
    ]


def _read_chunk(fields: list[Any]) -> GenerationChunk:
    text, (prompt, completion, cached), reason, timings = fields
    return GenerationChunk(
        text=text,
        usage=Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached),
        finish_reason=reason,
        timings=None
        if timings is None
        else Timings(queue_s=timings[0], prefill_s=timings[1], decode_s=timings[2]),
    )


def _read_identity(fields: dict[str, Any]) -> ModelIdentity:
    adapters = tuple(AdapterHashes(*adapter) for adapter in fields.pop("adapters"))
    return ModelIdentity(**fields, adapters=adapters)
