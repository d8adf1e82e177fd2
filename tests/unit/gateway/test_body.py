"""Bodies: bounded, JSON, objects."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from starlette.datastructures import Headers

from serve_app.config import LimitsConfig
from serve_app.errors import (
    ClientError,
    InvalidJson,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from serve_app.gateway.body import read_json

LIMITS = LimitsConfig(max_body_bytes=1024, max_json_depth=8)


class Source:
    """A request body that remembers how much of it was read."""

    def __init__(self, *chunks: bytes, **headers: str) -> None:
        self.headers = Headers({name.replace("_", "-"): value for name, value in headers.items()})
        self.n_read = 0
        self._chunks = chunks

    async def stream(self) -> AsyncGenerator[bytes, None]:
        for chunk in self._chunks:
            self.n_read += 1
            yield chunk


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "application/json; charset=utf-8", "Application/JSON"],
)
async def test_json_object_is_read(content_type: str | None) -> None:
    headers = {"content_type": content_type} if content_type else {}
    source = Source(b'{"a": ', b'"\xc3\xb1"}', **headers)
    assert await read_json(source, LIMITS) == {"a": "ñ"}


@pytest.mark.parametrize(
    ("data", "names"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"{", "not valid JSON", id="cut"),
        pytest.param(b"[]", "list; send an object", id="list"),
        pytest.param(b"null", "NoneType", id="null"),
        pytest.param(b'"x"', "str", id="text"),
        pytest.param(b"\xef\xbb\xbf{}", "BOM", id="BOM"),
        pytest.param(b'{"a": NaN}', "not valid JSON", id="NaN"),
        pytest.param(b'{"a": Infinity}', "not valid JSON", id="Infinity"),
        pytest.param(b'{"a": 1e999}', "not valid JSON", id="overflow"),
        pytest.param(b'{"a": "\xff"}', "not valid JSON", id="no UTF-8"),
        pytest.param(b'{"a": "\\ud800"}', "not valid JSON", id="lone surrogate"),
        pytest.param(b"\x00", "not valid JSON", id="NUL"),
        pytest.param(b'{"a":' * 8 + b"1" + b"}" * 8, None, id="deepest allowed"),
        pytest.param(b'{"a":' * 9 + b"1" + b"}" * 9, "8 levels", id="one too deep"),
        pytest.param(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "8 levels", id="200 deep"),
    ],
)
async def test_what_is_no_json_object_is_refused(data: bytes, names: str | None) -> None:
    if names is None:
        await read_json(Source(data), LIMITS)
        return
    with pytest.raises(InvalidJson) as caught:
        await read_json(Source(data), LIMITS)
    assert names in caught.value.message
    assert caught.value.status == 400


@pytest.mark.parametrize("deep", [b"[" * 500_000, b'{"a":' * 100_000, b'{"a":' + b"[" * 400_000])
async def test_absurd_nesting_is_refused_at_once(deep: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ClientError):
        await read_json(Source(deep), LimitsConfig())
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; x", ""],
)
async def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json") as caught:
        await read_json(Source(b"{}", content_type=content_type), LIMITS)
    assert caught.value.status == 415


async def test_declared_size_is_refused_before_reading() -> None:
    source = Source(b"x", content_length="1025")
    with pytest.raises(RequestTooLarge, match="1025 bytes; at most 1024") as caught:
        await read_json(source, LIMITS)
    assert source.n_read == 0
    assert caught.value.status == 413


@pytest.mark.parametrize("declared", [None, "5", "-1", "x", "²", ""])
async def test_body_that_grows_past_the_limit_is_not_read_to_its_end(declared: str | None) -> None:
    headers = {"content_length": declared} if declared is not None else {}
    source = Source(*[b" " * 512] * 100, **headers)
    with pytest.raises(RequestTooLarge, match="more than 1024"):
        await read_json(source, LIMITS)
    assert source.n_read == 3


async def test_body_of_exactly_the_limit_is_accepted() -> None:
    body = b'{"a": "' + b"x" * (1024 - 9) + b'"}'
    assert len(body) == 1024
    await read_json(Source(body), LIMITS)


async def test_body_that_does_not_come_is_given_up() -> None:
    class Silent(Source):
        async def stream(self) -> AsyncGenerator[bytes, None]:
            yield b"{"
            await asyncio.Event().wait()

    with pytest.raises(RequestTimeout, match=r"within 0\.02 s") as caught:
        await read_json(Silent(), LimitsConfig(body_timeout_s=0.02))
    assert caught.value.status == 408
