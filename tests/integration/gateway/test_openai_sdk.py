"""The OpenAI SDK against a real deployment, and bad input over real HTTP."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.integration.conftest import CHAT_PATH, Cluster, chat

MESSAGES: Any = chat()["messages"]


@pytest.fixture
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key="x", base_url=f"{cluster.url}/v1", max_retries=0, timeout=20
    ) as client:
        yield client


class Reply(BaseModel):
    response: str
    tag: str


def test_chat_stream_and_parse(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="okla-chat@stable", messages=MESSAGES)
    assert answer.choices[0].message.content == "stable klk, busco una yipeta"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5

    stream = client.chat.completions.create(
        model="okla-chat@stable",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "stable klk, busco una yipeta"
    assert chunks[-1].usage is not None

    parsed = client.chat.completions.parse(
        model="okla-chat@stable", messages=MESSAGES, response_format=Reply
    )
    assert parsed.choices[0].message.parsed == Reply(response="klk, busco una yipeta", tag="stable")


def test_text_model_and_raw_headers(client: openai.OpenAI) -> None:
    answer = {"response": "¡Klk! ñ", "intent": "saludo"}
    raw = client.chat.completions.with_raw_response.create(
        model="okla-chat:text@candidate",
        messages=[{"role": "user", "content": "x"}],
        extra_headers={"x-session-id": "s1"},
    )
    assert raw.headers["x-carril-variant"] == "candidate"
    assert raw.headers["x-carril-exposure"] == "pinned"
    assert raw.parse().choices[0].message.content == "candidate x"
    assert answer["response"]


def test_completions_and_models(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="okla-chat@stable", prompt=["uno", "dos"])
    assert [choice.text for choice in answer.choices] == ["stable uno", "stable dos"]
    assert [model.id for model in client.models.list()] == ["okla-chat", "okla-chat:text"]
    assert client.models.retrieve("okla-chat").id == "okla-chat"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"temperature": 9}, openai.BadRequestError),
        ({"model": "gpt-4"}, openai.NotFoundError),
        ({"extra_body": {"grammar": "root"}}, openai.BadRequestError),
    ],
)
def test_error_classes(
    client: openai.OpenAI, changes: dict[str, Any], error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "okla-chat", "messages": MESSAGES, **changes})
    assert caught.value.code
    assert caught.value.request_id


# --- bad input -----------------------------------------------------------------------------------


def exchange(cluster: Cluster, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; return status, headers and body of the answer."""
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=10) as connection:
        with suppress(OSError):  # refused before everything was sent; the answer is there already
            connection.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                break
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            part = connection.recv(65536)
            if not part:
                break
            body += part
        return int(status.split()[1]), headers, body


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"Host: x",
        b"Connection: close",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(n_bytes: int) -> bytes:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    return head + chunk * (n_bytes // 0x4000) + b"0\r\n\r\n"


GOOD = json.dumps(chat()).encode()
BAD = [
    pytest.param(post(b"{"), 400, "invalid_json", id="no JSON"),
    pytest.param(post(b""), 400, "invalid_json", id="empty"),
    pytest.param(post(b"[" * 100_000), 400, "invalid_json", id="deep"),
    pytest.param(post(b'{"a":' * 1000 + b"1" + b"}" * 1000), 400, "invalid_json", id="deep object"),
    pytest.param(post(b'{"a": NaN}'), 400, "invalid_json", id="NaN"),
    pytest.param(post(json.dumps(chat(messages=[])).encode()), 400, "invalid_value", id="empty"),
    pytest.param(
        post(json.dumps(chat(max_tokens=10**9)).encode()), 400, "invalid_value", id="max_tokens"
    ),
    pytest.param(
        post(json.dumps(chat(max_tokens=-1)).encode()), 400, "invalid_value", id="negative"
    ),
    pytest.param(
        post(json.dumps(chat(grammar="x")).encode()), 400, "unsupported_parameter", id="unknown"
    ),
    pytest.param(
        post(json.dumps(chat("a " * 5000)).encode()), 400, "context_length_exceeded", id="context"
    ),
    pytest.param(
        post(json.dumps(chat(model="gpt-4")).encode()), 404, "model_not_found", id="model"
    ),
    pytest.param(post(GOOD, b"x-session-id: \xff\xfe"), 400, "invalid_value", id="no UTF-8"),
    pytest.param(post(GOOD, b"x-request-id: a\x01b"), 400, None, id="control character"),
    pytest.param(
        post(GOOD, b"x-request-id: " + b"x" * 500), 400, "invalid_value", id="long request id"
    ),
    pytest.param(
        post(GOOD, b"x-request-timeout-seconds: \xff"), 200, None, id="timer that is no text"
    ),
    pytest.param(
        post(GOOD, b"serve_multiplexed_model_id: x"), 200, None, id="model of multiplexing"
    ),
    pytest.param(post(b" " * (2 << 20)), 413, "request_too_large", id="2 MiB"),
    pytest.param(chunked(3 << 20), 413, "request_too_large", id="3 MiB in chunks"),
    pytest.param(
        post(GOOD).replace(b"application/json", b"text/plain"),
        415,
        "unsupported_media_type",
        id="content type",
    ),
    pytest.param(b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found", id="route"),
    pytest.param(
        b"PUT /v1/models HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n",
        405,
        "method_not_allowed",
        id="method",
    ),
    pytest.param(b"\x16\x03\x01 hello\r\n\r\n", 400, None, id="no HTTP"),
]


@pytest.fixture(scope="module")
def ready_cluster(running_cluster: Cluster) -> Cluster:
    running_cluster.deploy()
    running_cluster.wait_ready()
    return running_cluster


@pytest.mark.parametrize(("data", "status", "code"), BAD)
def test_bad_input_is_refused_quickly_and_kills_nothing(
    ready_cluster: Cluster, data: bytes, status: int, code: str | None
) -> None:
    before = ready_cluster.pids()
    started = time.monotonic()
    got, headers, body = exchange(ready_cluster, data)
    took_s = time.monotonic() - started
    assert got == status, body
    if code is not None:
        error = json.loads(body)["error"]
        assert error["code"] == code
        assert error["request_id"]
        assert headers["content-type"].startswith("application/json")
    assert took_s < 1.0
    assert httpx.post(ready_cluster.url + CHAT_PATH, json=chat()).status_code == 200
    assert ready_cluster.pids() == before


@pytest.mark.parametrize("value", ["0", "-1", "nan", "0.000001"])
def test_clients_cannot_set_the_timer(ready_cluster: Cluster, value: str) -> None:
    response = httpx.post(
        ready_cluster.url + CHAT_PATH,
        json=chat(seed=1),
        headers={"x-request-timeout-seconds": value, "x-request-disconnect-disabled": "?1"},
    )
    assert response.status_code == 200
