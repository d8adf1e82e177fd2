"""Reading a request body: bounded, JSON, an object."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import orjson

from serve_app.config import LimitsConfig
from serve_app.errors import InvalidJson, RequestTimeout, RequestTooLarge, UnsupportedMediaType


class BodySource(Protocol):
    """What a Starlette request offers of it."""

    @property
    def headers(self) -> Any:
        """Headers, case-insensitive."""
        ...

    def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body's bytes as they arrive."""
        ...


async def read_json(request: BodySource, limits: LimitsConfig) -> dict[str, Any]:
    """Read and parse a body, refusing it before it is in memory if it is too large.

    Raises:
        ClientError: If it is too large, not sent as JSON, no JSON, too deep, or no object.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMediaType(
            f"content-type is {media_type[:80]!r}; send the body as application/json"
        )
    limit = limits.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise RequestTooLarge(f"the body has {declared} bytes; at most {limit} are accepted")
    data = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise RequestTooLarge(f"the body has more than {limit} bytes")
    except TimeoutError:
        raise RequestTimeout(
            f"the body did not arrive within {limits.body_timeout_s:g} s"
        ) from None
    return parse_object(bytes(data), max_depth=limits.max_json_depth)


def parse_object(data: bytes, *, max_depth: int) -> dict[str, Any]:
    """Parse JSON text that must be an object.

    Raises:
        InvalidJson: If it is empty, malformed (NaN, lone surrogates and BOMs included), nested
            deeper than `max_depth`, or another type.
    """
    if not data:
        raise InvalidJson("the body is empty; send a JSON object")
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidJson(f"the body is a JSON {type(parsed).__name__}; send an object")
    if _depth(parsed, max_depth) > max_depth:
        raise InvalidJson(f"the body is nested deeper than {max_depth} levels")
    return parsed


def _depth(value: object, limit: int) -> int:
    """Return the nesting depth, or `limit` + 1 as soon as it is exceeded."""
    level: list[object] = [value]
    depth = 0
    while level:
        children: list[object] = []
        for item in level:
            if isinstance(item, dict):
                children.extend(item.values())
            elif isinstance(item, list):
                children.extend(item)
        if any(isinstance(item, dict | list) for item in level):
            depth += 1
        if depth > limit:
            return depth
        level = [child for child in children if isinstance(child, dict | list)]
    return depth
