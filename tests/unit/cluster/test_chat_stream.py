"""A streamed answer in the terminal, and the ways it can go wrong."""

import json
from collections.abc import Callable

import httpx
import pytest

from cluster.chat_stream import ChatClient
from cluster.errors import CommandError, ExitCode

MESSAGES = [{"role": "user", "content": "hola"}]
Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, **options: str) -> ChatClient:
    return ChatClient(
        "http://test",
        api_key=options.get("api_key"),
        session="s1",
        transport=httpx.MockTransport(handler),
    )


def sse(*events: object, end: bool = True) -> httpx.Response:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    if end:
        lines.append("data: [DONE]\n\n")
    headers = {"x-carril-variant": "candidate", "x-carril-cache": "miss"}
    return httpx.Response(200, text="".join(lines), headers=headers)


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}}]}


def test_pieces_arrive_in_order_and_the_summary_names_the_variant() -> None:
    pieces: list[str] = []
    usage = {"choices": [], "usage": {"completion_tokens": 2}}
    stream = client(lambda request: sse(delta("ho"), delta("la"), usage))

    answer = stream.ask("okla-chat", MESSAGES, on_text=pieces.append)

    assert pieces == ["ho", "la"]
    assert answer.text == "hola"
    assert answer.completion_tokens == 2
    assert answer.summary().startswith("variant candidate · cache miss · 2 tokens")


def test_the_session_and_the_key_are_sent() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return sse(delta("x"))

    client(handler, api_key="k").ask("okla-chat@stable", MESSAGES, on_text=lambda text: None)

    assert seen[0].headers["x-session-id"] == "s1"
    assert seen[0].headers["authorization"] == "Bearer k"
    assert json.loads(seen[0].content)["model"] == "okla-chat@stable"


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, ExitCode.FAILED), (401, ExitCode.AUTH), (503, ExitCode.INFRASTRUCTURE)],
)
def test_a_refusal_shows_the_servers_words(status: int, code: ExitCode) -> None:
    body = {"error": {"message": "no such model"}}

    with pytest.raises(CommandError, match="no such model") as raised:
        client(lambda request: httpx.Response(status, json=body)).ask(
            "m", MESSAGES, on_text=lambda text: None
        )

    assert raised.value.code is code


def test_an_error_event_ends_the_answer_loudly() -> None:
    stream = client(lambda request: sse(delta("ho"), {"error": {"message": "replica lost"}}))

    with pytest.raises(CommandError, match="replica lost"):
        stream.ask("m", MESSAGES, on_text=lambda text: None)


def test_a_stream_without_an_end_is_not_taken_for_whole() -> None:
    stream = client(lambda request: sse(delta("ho"), end=False))

    with pytest.raises(CommandError, match="without its end mark"):
        stream.ask("m", MESSAGES, on_text=lambda text: None)


def test_no_server_is_an_infrastructure_error() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(CommandError, match="no server answers") as raised:
        client(refuse).ask("m", MESSAGES, on_text=lambda text: None)

    assert raised.value.code is ExitCode.INFRASTRUCTURE
