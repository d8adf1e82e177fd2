"""The HTTP surface on echo engines: answers, headers, errors, caching, accounts."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from serve_app.errors import EngineFailed, ModelNotReady, ReplicaLost
from tests.unit.gateway.builders import CHAT, Gateway, raw_config

MakeGateway = Callable[..., Gateway]
CHAT_PATH = "/v1/chat/completions"


def unit_of(gateway: Gateway, variant: str) -> str:
    """Return a session id that the split sends to a variant."""
    assert gateway.active is not None
    for n in range(10_000):
        from serve_app.gateway.unit import Unit

        if gateway.active.policy.decide("okla-chat", Unit(f"s{n}", "user")).variant == variant:
            return f"s{n}"
    raise AssertionError(variant)


def events(response: httpx.Response) -> list[Any]:
    """Return the events of an SSE body; the last one must be [DONE] or an error."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [
        "[DONE]" if line == "data: [DONE]" else json.loads(line.removeprefix("data: "))
        for line in lines
    ]


def text_of(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        if isinstance(chunk, dict)
        for choice in chunk.get("choices", [])
    )


# --- answers -------------------------------------------------------------------------------------


async def test_chat_answer_has_the_openai_shape_and_explains_itself(gateway: Gateway) -> None:
    async with gateway.client() as client:
        session = unit_of(gateway, "candidate")
        headers = {"x-session-id": session, "x-request-id": "req-1"}
        response = await client.post(CHAT_PATH, json=CHAT, headers=headers)
    assert response.status_code == 200
    answer = ChatCompletion.model_validate(response.json(), strict=True)
    assert answer.choices[0].message.content == "candidate klk, busco una yipeta"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "okla-chat"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    explained = {name: value for name, value in response.headers.items() if "carril" in name}
    assert explained.pop("x-carril-overhead-ms")
    assert explained == {
        "x-carril-variant": "candidate",
        "x-carril-exposure": "enrolled",
        "x-carril-experiment": "okla-v1-v2",
        "x-carril-cache": "miss",
        "x-carril-config": gateway.config.config_hash,
        "x-carril-model": gateway.variants["candidate"].weights.short,
    }


async def test_stream_has_the_openai_shape(gateway: Gateway) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=body)
        whole = await client.post(CHAT_PATH, json=CHAT | {"seed": 1})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response)
    assert done == "[DONE]"
    parsed = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert len({chunk.id for chunk in parsed}) == 1
    assert parsed[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in parsed[:-1]][-1] == "stop"
    assert parsed[-1].choices == []
    assert parsed[-1].usage is not None
    assert text_of(chunks) == whole.json()["choices"][0]["message"]["content"]


async def test_usage_is_left_out_of_a_stream_unless_asked_for(gateway: Gateway) -> None:
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT | {"stream": True})
    assert all("usage" not in event for event in events(response)[:-1])


async def test_text_model_shows_only_the_response(make_gateway: MakeGateway) -> None:
    answer = {"response": "¡Klk! ñ 😀", "intent": "saludo"}
    echo_it = {"messages": [{"role": "user", "content": json.dumps(answer)}]}
    gateway = make_gateway(engines={"stable": {"echo": {"tag": ""}}})
    async with gateway.client() as client:
        body = CHAT | echo_it | {"model": "okla-chat:text"}
        whole = await client.post(CHAT_PATH, json=body)
        stream = await client.post(CHAT_PATH, json=body | {"stream": True})
        raw = await client.post(CHAT_PATH, json=CHAT | echo_it)
    assert whole.json()["choices"][0]["message"]["content"] == "¡Klk! ñ 😀"
    assert text_of(events(stream)) == "¡Klk! ñ 😀"
    assert json.loads(raw.json()["choices"][0]["message"]["content"]) == answer


async def test_text_model_shows_an_answer_that_is_no_json_whole(gateway: Gateway) -> None:
    async with gateway.client() as client:
        body = CHAT | {"model": "okla-chat:text"}
        whole = await client.post(CHAT_PATH, json=body)
        stream = await client.post(CHAT_PATH, json=body | {"stream": True})
    assert whole.json()["choices"][0]["message"]["content"] == "stable klk, busco una yipeta"
    assert text_of(events(stream)) == "stable klk, busco una yipeta"


@pytest.mark.parametrize("stream", [False, True])
async def test_completion_has_the_openai_shape(gateway: Gateway, stream: bool) -> None:
    body = {"model": "okla-chat", "prompt": "uno dos", "echo": True, "logprobs": 1}
    async with gateway.client() as client:
        response = await client.post("/v1/completions", json=body | {"stream": stream})
    assert response.status_code == 200
    if not stream:
        choices = response.json()["choices"]
    else:
        choices = [event["choices"][0] for event in events(response)[:-1]]
    text = "".join(choice["text"] for choice in choices)
    assert text == "uno dosstable uno dos"
    blocks = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens = [token for block in blocks for token in block["tokens"]]
    offsets = [offset for block in blocks for offset in block["text_offset"]]
    assert "".join(tokens) == text
    assert blocks[0]["token_logprobs"][0] is None  # nothing predicts the first token
    for offset, token in zip(offsets, tokens, strict=True):
        assert text[offset:].startswith(token)


async def test_several_prompts_give_several_choices(gateway: Gateway) -> None:
    body = {"model": "okla-chat", "prompt": ["uno", "dos"], "user": "u1"}
    async with gateway.client() as client:
        response = await client.post("/v1/completions", json=body)
    answer = Completion.model_validate(response.json(), strict=True)
    assert [(c.index, c.text.split()[-1]) for c in answer.choices] == [(0, "uno"), (1, "dos")]
    await gateway.events.flush()
    assert len({(e.experiment, e.unit) for e in gateway.exposures()}) == 1
    assert len(gateway.outcomes()) == 1


async def test_chat_logprobs(gateway: Gateway) -> None:
    async with gateway.client() as client:
        body = CHAT | {"logprobs": True, "top_logprobs": 1}
        response = await client.post(CHAT_PATH, json=body)
    answer = ChatCompletion.model_validate(response.json(), strict=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == (answer.choices[0].message.content)
    assert len(logprobs.content[0].top_logprobs) == 1


async def test_models_are_listed_and_described(gateway: Gateway) -> None:
    async with gateway.client() as client:
        listed = (await client.get("/v1/models")).json()
        one = await client.get("/v1/models/okla-chat:text")
        gone = await client.get("/v1/models/gpt-4")
    assert [model["id"] for model in listed["data"]] == ["okla-chat", "okla-chat:text", "fixed"]
    assert one.json()["id"] == "okla-chat:text"
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


async def test_openai_sdk_chats_streams_parses_and_raises_its_own_errors(
    make_gateway: MakeGateway,
) -> None:
    class Reply(BaseModel):
        response: str
        tag: str

    gateway = make_gateway()
    async with (
        gateway.client() as http,
        openai.AsyncOpenAI(
            api_key="x", base_url="http://gateway/v1", http_client=http, max_retries=0
        ) as client,
    ):
        messages: Any = CHAT["messages"]
        answer = await client.chat.completions.create(model="okla-chat", messages=messages)
        assert answer.choices[0].message.content == "stable klk, busco una yipeta"
        stream = await client.chat.completions.create(
            model="okla-chat:text", messages=messages, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "stable klk, busco una yipeta"
        parsed = await client.chat.completions.parse(
            model="okla-chat", messages=messages, response_format=Reply
        )
        assert parsed.choices[0].message.parsed == Reply(
            response="klk, busco una yipeta", tag="stable"
        )
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="gpt-4", messages=messages)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(
                model="okla-chat", messages=messages, temperature=9
            )
        assert bad.value.param == "temperature"


# --- errors --------------------------------------------------------------------------------------


BAD_REQUESTS = [
    pytest.param("POST", CHAT_PATH, b"{", 400, "invalid_json", None, id="no JSON"),
    pytest.param("POST", CHAT_PATH, b"", 400, "invalid_json", None, id="empty"),
    pytest.param("POST", CHAT_PATH, b"[]", 400, "invalid_json", None, id="list"),
    pytest.param("POST", CHAT_PATH, b"[" * 100_000, 400, "invalid_json", None, id="deep"),
    pytest.param(
        "POST", CHAT_PATH, b'{"a":' * 200 + b"1" + b"}" * 200, 400, "invalid_json", None, id="200"
    ),
    pytest.param("POST", CHAT_PATH, b" " * 2**21, 413, "request_too_large", None, id="2 MiB"),
    pytest.param("POST", CHAT_PATH, {"messages": []}, 400, "invalid_value", "messages", id="no m"),
    pytest.param("POST", CHAT_PATH, {"max_tokens": 0}, 400, "invalid_value", "max_tokens", id="0"),
    pytest.param(
        "POST", CHAT_PATH, {"max_tokens": -5}, 400, "invalid_value", "max_tokens", id="minus"
    ),
    pytest.param(
        "POST", CHAT_PATH, {"max_tokens": 10**9}, 400, "invalid_value", "max_tokens", id="huge"
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"max_completion_tokens": 10**9},
        400,
        "invalid_value",
        "max_completion_tokens",
        id="huge, new name",
    ),
    pytest.param(
        "POST", CHAT_PATH, {"top_logprobs": 3}, 400, "invalid_value", "top_logprobs", id="top"
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"logprobs": True, "top_logprobs": 21},
        400,
        "invalid_value",
        "top_logprobs",
        id="many top",
    ),
    pytest.param(
        "POST", CHAT_PATH, {"stop": list("abcde")}, 400, "invalid_value", "stop", id="five stops"
    ),
    pytest.param("POST", CHAT_PATH, {"stop": ""}, 400, "invalid_value", "stop", id="empty stop"),
    pytest.param(
        "POST", CHAT_PATH, {"stop": "x" * 257}, 400, "invalid_value", "stop", id="long stop"
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"stream_options": {"include_usage": True}},
        400,
        "invalid_value",
        "stream_options",
        id="stream options",
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"logit_bias": {"5": 1}},
        400,
        "unsupported_parameter",
        "logit_bias",
        id="logit_bias",
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"messages": CHAT["messages"] * 300},
        400,
        "invalid_value",
        "messages",
        id="many messages",
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"messages": [{"role": "user", "content": "a " * 5000}]},
        400,
        "context_length_exceeded",
        "messages",
        id="context",
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"response_format": {"type": "json_schema"}},
        400,
        "invalid_value",
        "response_format.json_schema.schema",
        id="no schema",
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"model": "okla-chat:text", "response_format": {"type": "json_object"}},
        400,
        "unsupported_parameter",
        "response_format",
        id="text model, JSON",
    ),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"model": "okla-chat:text", "logprobs": True},
        400,
        "unsupported_parameter",
        "logprobs",
        id="text model, logprobs",
    ),
    pytest.param("POST", CHAT_PATH, {"model": "x"}, 404, "model_not_found", "model", id="model"),
    pytest.param(
        "POST",
        CHAT_PATH,
        {"metadata": {"session_id": 5}},
        400,
        "invalid_value",
        "metadata.session_id",
        id="session",
    ),
    pytest.param(
        "POST",
        "/v1/completions",
        {"prompt": ["a", "b"], "stream": True},
        400,
        "unsupported_parameter",
        "prompt",
        id="stream of two",
    ),
    pytest.param(
        "POST",
        "/v1/completions",
        {"prompt": ["a"] * 65},
        400,
        "invalid_value",
        "prompt",
        id="many prompts",
    ),
    pytest.param(
        "POST",
        "/v1/completions",
        {"prompt": "a", "max_tokens": 0},
        400,
        "invalid_value",
        "max_tokens",
        id="no tokens without echo",
    ),
    pytest.param("GET", "/v2/x", None, 404, "not_found", None, id="route"),
    pytest.param("GET", CHAT_PATH, None, 405, "method_not_allowed", None, id="method"),
    pytest.param("DELETE", "/v1/models", None, 405, "method_not_allowed", None, id="delete"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "param"), BAD_REQUESTS)
async def test_bad_request_gets_an_openai_error_at_once(
    gateway: Gateway,
    method: str,
    path: str,
    body: Any,
    status: int,
    code: str,
    param: str | None,
) -> None:
    if isinstance(body, dict):
        base = CHAT if path == CHAT_PATH else {"model": "okla-chat"}
        content = json.dumps(base | body).encode()
    else:
        content = body
    headers = {"content-type": "application/json", "x-request-id": "req-7"}
    async with gateway.client() as client:
        started = time.monotonic()
        response = await client.request(method, path, content=content, headers=headers)
        took_s = time.monotonic() - started
        assert (await client.post(CHAT_PATH, json=CHAT)).status_code == 200
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["request_id"] == "req-7"
    assert error["type"] == "invalid_request_error"
    assert response.headers["x-should-retry"] == "false"
    assert took_s < 0.5
    assert gateway.active is not None
    assert gateway.active.admission.in_flight == 0


@pytest.mark.parametrize("given", ["", "x" * 129, "a\tb", "ñ"], ids=repr)
async def test_unsafe_request_id_is_refused(gateway: Gateway, given: str) -> None:
    async with gateway.client() as client:
        response = await client.post(
            CHAT_PATH, json=CHAT, headers=[(b"x-request-id", given.encode("latin-1"))]
        )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-id"


async def test_engine_failure_is_a_500_that_may_be_retried(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"fail_rate": 1}}})
    async with gateway.client() as client:
        for stream in (False, True):
            response = await client.post(CHAT_PATH, json=CHAT | {"stream": stream})
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "engine_failed"
            assert response.headers["x-carril-variant"] == "stable"


async def test_stream_that_breaks_says_so(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"fail_rate": 1, "fail_after_tokens": 2}}})
    async with gateway.client() as client:
        response = await client.post(
            CHAT_PATH, json=CHAT | {"stream": True}, headers={"x-request-id": "req-1"}
        )
    assert response.status_code == 200
    *chunks, last = events(response)
    assert text_of(chunks)
    assert last["error"]["code"] == "engine_failed"
    assert last["error"]["request_id"] == "req-1"
    await gateway.events.flush()
    assert [(o.status, o.error_code) for o in gateway.outcomes()] == [("error", "engine_failed")]


async def test_unexpected_error_says_nothing_internal(gateway: Gateway) -> None:
    gateway.variants["stable"].faults = [(0, RuntimeError("secret path /etc")) for _ in range(2)]
    async with gateway.client() as client:
        whole = await client.post(CHAT_PATH, json=CHAT)
        stream = await client.post(CHAT_PATH, json=CHAT | {"stream": True})
    for response in (whole, stream):
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
        assert "secret" not in response.text
    assert gateway.active is not None
    assert gateway.active.admission.in_flight == 0


async def test_unexpected_error_in_a_stream_says_nothing_internal(gateway: Gateway) -> None:
    gateway.variants["stable"].faults = [(2, RuntimeError("secret path /etc"))]
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT | {"stream": True})
    assert events(response)[-1]["error"]["code"] == "internal_error"
    assert "secret" not in response.text


async def test_gateway_without_a_configuration_is_not_ready(gateway: Gateway) -> None:
    gateway.active = None
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert response.json()["error"]["code"] == "model_loading"


# --- keys ----------------------------------------------------------------------------------------


def keys(**tenants: str) -> dict[str, Any]:
    return {
        "auth": {
            "keys": [
                {"name": k, "sha256": hashlib.sha256(k.encode()).hexdigest(), "tenant": tenant}
                for k, tenant in tenants.items()
            ]
        }
    }


async def test_every_v1_route_asks_for_a_key(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**keys(alpha="acme"))
    asked = 0
    async with gateway.client() as client:
        for route in gateway.api.routes:
            path = getattr(route, "path", "")
            for method in getattr(route, "methods", None) or ():
                if not path.startswith("/v1/"):
                    continue
                asked += 1
                response = await client.request(method, path.replace("{name:path}", "okla-chat"))
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["error"]["code"] == "invalid_api_key"
    assert asked >= 4


async def test_tenants_share_no_answer(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**keys(alpha="acme", beta="other", gamma="acme"))
    async with gateway.client() as client:
        states = [
            (
                await client.post(CHAT_PATH, json=CHAT, headers={"authorization": f"Bearer {key}"})
            ).headers["x-carril-cache"]
            for key in ("alpha", "beta", "gamma", "alpha")
        ]
    assert states == ["miss", "miss", "hit", "hit"]


async def test_session_of_one_tenant_is_not_that_of_another(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**keys(alpha="acme", beta="other"))
    async with gateway.client() as client:
        for key in ("alpha", "beta"):
            headers = {"authorization": f"Bearer {key}", "x-session-id": "s1"}
            await client.post(CHAT_PATH, json=CHAT, headers=headers)
    await gateway.events.flush()
    assert {exposure.unit for exposure in gateway.exposures()} == {"acme/s1", "other/s1"}


# --- limits --------------------------------------------------------------------------------------


async def test_overload_is_refused_with_a_time_to_come_back(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(
        engines={"stable": {"echo": {"prefill_s": 0.2}}},
        limits={"max_in_flight": 4, "max_in_flight_per_tenant": 2},
    )
    async with gateway.client() as client:
        responses = await asyncio.gather(
            *(client.post(CHAT_PATH, json=CHAT | {"seed": n}) for n in range(5))
        )
    codes = sorted(response.status_code for response in responses)
    assert codes == [200, 200, 429, 429, 429]
    for response in responses:
        if response.status_code == 429:
            assert response.headers["retry-after"] == "1"
            assert response.headers["x-should-retry"] == "true"
            assert response.json()["error"]["type"] == "rate_limit_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_deadline_is_a_504_and_frees_the_engine(
    make_gateway: MakeGateway, stream: bool
) -> None:
    gateway = make_gateway(
        engines={"stable": {"echo": {"prefill_s": 30}}}, limits={"deadline_s": 0.05}
    )
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT | {"stream": stream})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    assert response.headers["x-should-retry"] == "false"
    await wait_until(lambda: gateway.variants["stable"].engine.stats().running == 0)


async def test_deadline_in_a_stream_is_an_event(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(
        engines={"stable": {"echo": {"token_s": 30}}}, limits={"deadline_s": 0.1}
    )
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT | {"stream": True})
    assert response.status_code == 200
    assert events(response)[-1]["error"]["code"] == "timeout"
    await wait_until(lambda: gateway.variants["stable"].engine.stats().running == 0)


async def test_first_token_limit_does_not_apply_to_an_answer_in_one_piece(
    make_gateway: MakeGateway,
) -> None:
    """Such an answer has its first token when it has its last."""
    gateway = make_gateway(
        engines={"stable": {"echo": {"token_s": 0.05}}},
        limits={"first_token_s": 0.1, "deadline_s": 10},
    )
    async with gateway.client() as client:
        whole = await client.post(CHAT_PATH, json=CHAT)
        stream = await client.post(CHAT_PATH, json=CHAT | {"stream": True, "seed": 1})
    assert whole.status_code == stream.status_code == 200


async def test_first_token_limit_applies_to_a_stream(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(
        engines={"stable": {"echo": {"prefill_s": 30}}}, limits={"first_token_s": 0.05}
    )
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT | {"stream": True})
    assert response.status_code == 504


async def wait_until(true: Callable[[], bool], seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.005)


# --- clients that leave --------------------------------------------------------------------------


class Connection:
    """One ASGI request whose client can leave."""

    def __init__(self, gateway: Gateway, body: dict[str, Any]) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self._body: bytes | None = json.dumps(body).encode()
        self._gateway = gateway

    async def run(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": CHAT_PATH,
            "raw_path": CHAT_PATH.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("gateway", 80),
            "scheme": "http",
        }
        await self._gateway.api(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(dict(message))
        await asyncio.sleep(0)


def at_rest(gateway: Gateway) -> bool:
    assert gateway.active is not None
    return (
        gateway.active.admission.in_flight == 0
        and all(v.engine.stats().running == 0 for v in gateway.variants.values())
        and gateway.metrics.active.labels("stable")._value.get() == 0
    )


@pytest.mark.parametrize("n_messages", [0, 1, 2, 3, 4])
async def test_client_that_leaves_a_stream_frees_everything(
    make_gateway: MakeGateway, n_messages: int
) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.01, "n_tokens": 1000}}})
    connection = Connection(gateway, CHAT | {"stream": True, "max_tokens": 1000})
    task = asyncio.create_task(connection.run())
    if n_messages == 0:
        connection.left.set()
    await wait_until(lambda: len(connection.sent) >= n_messages)
    connection.left.set()
    await asyncio.wait_for(task, 2)
    await wait_until(lambda: at_rest(gateway))
    await gateway.events.flush()
    assert [outcome.status for outcome in gateway.outcomes()] == ["aborted"]


async def test_cancelled_request_frees_everything(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"prefill_s": 30}}})
    task = asyncio.create_task(Connection(gateway, dict(CHAT)).run())
    await wait_until(lambda: gateway.variants["stable"].engine.stats().running == 1)
    task.cancel()
    await asyncio.wait([task])
    await wait_until(lambda: at_rest(gateway))
    await gateway.events.flush()
    assert [outcome.status for outcome in gateway.outcomes()] == ["aborted"]


async def test_client_that_leaves_does_not_end_the_answer_of_those_who_joined(
    make_gateway: MakeGateway,
) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.01}}})
    body = CHAT | {"stream": True}
    first, second = Connection(gateway, body), Connection(gateway, body)
    tasks = [asyncio.create_task(connection.run()) for connection in (first, second)]
    await wait_until(lambda: len(first.sent) >= 2 and len(second.sent) >= 2)
    first.left.set()
    await asyncio.wait(tasks)
    assert second.sent[-2]["body"].endswith(b"[DONE]\n\n")
    assert gateway.n_generations() == 1


# --- cache and single flight ---------------------------------------------------------------------


async def test_repeated_question_is_a_hit_without_a_generation(gateway: Gateway) -> None:
    async with gateway.client() as client:
        first = await client.post(CHAT_PATH, json=CHAT)
        second = await client.post(CHAT_PATH, json=CHAT)
        stream = await client.post(CHAT_PATH, json=CHAT | {"stream": True})
    assert [r.headers["x-carril-cache"] for r in (first, second, stream)] == ["miss", "hit", "hit"]
    assert gateway.n_generations() == 1
    content = first.json()["choices"][0]["message"]["content"]
    assert second.json()["choices"][0]["message"]["content"] == content
    assert text_of(events(stream)) == content
    usage = second.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param({"temperature": 0.5}, {}, id="temperature"),
        pytest.param({}, {"cache-control": "no-store"}, id="no-store"),
        pytest.param({}, {"cache-control": "max-age=0, No-Cache"}, id="no-cache"),
    ],
)
async def test_answer_that_must_be_fresh_is_fresh(
    gateway: Gateway, body: dict[str, Any], headers: dict[str, str]
) -> None:
    async with gateway.client() as client:
        for _ in range(2):
            response = await client.post(CHAT_PATH, json=CHAT | body, headers=headers)
            assert response.headers["x-carril-cache"] == "bypass"
    assert gateway.n_generations() == 2


async def test_seeded_answer_is_stored(gateway: Gateway) -> None:
    body = CHAT | {"temperature": 1, "seed": 7}
    async with gateway.client() as client:
        states = [
            (await client.post(CHAT_PATH, json=body)).headers["x-carril-cache"] for _ in range(2)
        ]
    assert states == ["miss", "hit"]


async def test_cut_answer_is_not_stored(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for _ in range(2):
            response = await client.post(CHAT_PATH, json=CHAT | {"max_tokens": 2})
            assert response.json()["choices"][0]["finish_reason"] == "length"
            assert response.headers["x-carril-cache"] == "miss"
            await asyncio.sleep(0)  # the flight lands; a network takes longer than that


async def test_variants_share_no_answer(gateway: Gateway) -> None:
    body = CHAT | {"temperature": 0}
    async with gateway.client() as client:
        states = [
            (await client.post(CHAT_PATH, json=body | {"model": model})).headers["x-carril-cache"]
            for model in ("okla-chat@stable", "okla-chat@candidate", "fixed", "okla-chat:text")
        ]
    assert states == ["miss", "miss", "hit", "hit"]


async def test_a_hundred_identical_requests_make_one_generation(
    make_gateway: MakeGateway,
) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"prefill_s": 0.05}}})
    async with gateway.client() as client:
        responses = await asyncio.gather(
            *(
                client.post(CHAT_PATH, json=CHAT, headers={"x-session-id": f"s{n}"})
                for n in range(100)
            )
        )
    states = [
        response.headers["x-carril-cache"]
        for response in responses
        if response.headers["x-carril-variant"] == "stable"
    ]
    assert states.count("miss") == 1
    assert set(states) <= {"miss", "join", "hit"}
    assert len(gateway.variants["stable"].calls) == 1
    assert len(gateway.variants["candidate"].calls) <= 1


async def test_stream_that_joins_late_is_a_stream(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.01, "n_tokens": 30}}})
    body = CHAT | {"stream": True}
    first, late = Connection(gateway, body), Connection(gateway, body)
    task = asyncio.create_task(first.run())
    await wait_until(lambda: len(first.sent) >= 10)
    late_task = asyncio.create_task(late.run())
    await wait_until(lambda: len(late.sent) >= 8)
    assert not task.done()
    await asyncio.gather(task, late_task)
    headers = dict(late.sent[0]["headers"])
    assert headers[b"x-carril-cache"] == b"join"
    assert gateway.n_generations() == 1


async def test_stream_does_not_wait_for_an_answer_in_one_piece(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.05, "n_tokens": 40}}})
    whole = asyncio.create_task(Connection(gateway, dict(CHAT)).run())
    await wait_until(lambda: gateway.variants["stable"].engine.stats().running == 1)
    stream = Connection(gateway, CHAT | {"stream": True})
    task = asyncio.create_task(stream.run())
    await wait_until(lambda: len(stream.sent) >= 4)
    assert not whole.done()
    for running in (whole, task):
        running.cancel()
    await asyncio.wait([whole, task])


async def test_cache_of_several_prompts_is_reported_by_the_least_cached(gateway: Gateway) -> None:
    body = {"model": "okla-chat", "prompt": ["nuevo", "viejo"]}
    async with gateway.client() as client:
        await client.post("/v1/completions", json=body | {"prompt": "viejo"})
        response = await client.post("/v1/completions", json=body)
        again = await client.post("/v1/completions", json=body)
    assert response.headers["x-carril-cache"] == "miss"
    assert again.headers["x-carril-cache"] == "hit"


# --- events and retries --------------------------------------------------------------------------


async def test_exposure_is_stored_before_the_model_is_called(gateway: Gateway) -> None:
    gateway.variants["stable"].faults = [(0, EngineFailed("broken"))]
    session = unit_of(gateway, "stable")
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT, headers={"x-session-id": session})
    assert response.status_code == 500
    [exposure] = gateway.exposures()
    assert (exposure.unit, exposure.variant, exposure.cached) == (session, "stable", False)
    assert exposure.probability == 0.9
    assert exposure.model_sha256 == gateway.variants["stable"].weights.model_sha256


async def test_every_answer_has_an_outcome_that_matches_its_exposure(gateway: Gateway) -> None:
    async with gateway.client() as client:
        headers = {"x-session-id": "s1"}
        answers = [await client.post(CHAT_PATH, json=CHAT, headers=headers) for _ in range(2)]
    await gateway.events.flush()
    outcomes, exposures = gateway.outcomes(), gateway.exposures()
    assert [o.inference_id for o in outcomes] == [a.json()["id"] for a in answers]
    assert [o.cache for o in outcomes] == ["miss", "hit"]
    assert [e.cached for e in exposures] == [False, True]
    assert {o.unit for o in outcomes} == {e.unit for e in exposures} == {"s1"}
    assert all(o.status == "ok" and o.duration_s > 0 for o in outcomes)


async def test_request_without_a_session_leaves_no_exposure(gateway: Gateway) -> None:
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT)
    assert response.headers["x-carril-exposure"] == "none"
    assert "x-carril-experiment" not in response.headers
    assert gateway.exposures() == []


async def test_strict_durability_refuses_what_it_cannot_record(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(events={"durability": "strict"})
    gateway.refuse_events = True
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT, headers={"x-session-id": "s1"})
        unenrolled = await client.post(CHAT_PATH, json=CHAT)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert response.json()["error"]["code"] == "events_unavailable"
    assert gateway.n_generations() == 1
    assert unenrolled.status_code == 200


@pytest.mark.parametrize("error", [ReplicaLost("gone"), ModelNotReady("loading")])
@pytest.mark.parametrize("stream", [False, True])
async def test_lost_replica_is_tried_once_more_with_one_exposure(
    gateway: Gateway, error: Exception, stream: bool
) -> None:
    gateway.variants["stable"].faults = [(0, error)]
    session = unit_of(gateway, "stable")
    async with gateway.client() as client:
        response = await client.post(
            CHAT_PATH, json=CHAT | {"stream": stream}, headers={"x-session-id": session}
        )
    assert response.status_code == 200
    first, second = gateway.variants["stable"].calls
    assert first == second
    await gateway.events.flush()
    assert len(gateway.exposures()) == 1
    [outcome] = gateway.outcomes()
    assert (outcome.status, outcome.retries) == ("ok", 1)


async def test_replica_lost_twice_is_a_502(gateway: Gateway) -> None:
    gateway.variants["stable"].faults = [(0, ReplicaLost("gone")), (0, ReplicaLost("gone"))]
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "replica_lost")
    assert response.headers["x-should-retry"] == "true"


async def test_replica_lost_in_a_stream_is_an_event_and_no_retry(gateway: Gateway) -> None:
    gateway.variants["stable"].faults = [(2, ReplicaLost("gone"))]
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT | {"stream": True})
    assert events(response)[-1]["error"]["code"] == "replica_lost"
    assert gateway.n_generations() == 1


async def test_other_errors_are_not_repeated(gateway: Gateway) -> None:
    gateway.variants["stable"].faults = [(0, EngineFailed("broken"))]
    async with gateway.client() as client:
        response = await client.post(CHAT_PATH, json=CHAT)
    assert response.status_code == 500
    assert gateway.n_generations() == 1


@pytest.mark.parametrize(("budget_min", "n_answered"), [(0, 0), (2, 10)])
async def test_retries_wait_for_the_budget_and_end_without_one(
    make_gateway: MakeGateway, budget_min: int, n_answered: int
) -> None:
    retry = {"max_retries": 1, "budget_rate": 0.0, "budget_min": budget_min}
    gateway = make_gateway(engines={"stable": {"echo": {"prefill_s": 0.02}}}, retry=retry)
    gateway.variants["stable"].faults = [(0, ReplicaLost("gone"))] * 10
    async with gateway.client() as client:
        responses = await asyncio.gather(
            *(client.post(CHAT_PATH, json=CHAT | {"seed": n}) for n in range(10))
        )
    codes = [response.status_code for response in responses]
    assert codes.count(200) == n_answered
    assert codes.count(502) == 10 - n_answered


# --- state ---------------------------------------------------------------------------------------


async def test_health_readiness_and_metrics_need_no_key(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**keys(alpha="acme"))
    async with gateway.client() as client:
        health = await client.get("/healthz")
        ready = await client.get("/readyz")
        metrics = await client.get("/metrics")
    assert health.json()["status"] == "ok"
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_requests_are_counted_by_how_they_ended(gateway: Gateway) -> None:
    gateway.variants["stable"].faults = [(0, EngineFailed("broken"))]
    async with gateway.client() as client:
        await client.post(CHAT_PATH, json=CHAT)
        await client.post(CHAT_PATH, json=CHAT)
        await client.post(CHAT_PATH, json=CHAT)
        await client.post(CHAT_PATH, json=CHAT | {"model": "gpt-4"})
        page = (await client.get("/metrics")).text
    wanted = {
        'okla_llm_requests_total{replica="g1",variant="stable"} 3.0',
        'okla_llm_requests_success_total{replica="g1",variant="stable"} 2.0',
        'okla_llm_requests_error_total{error_type="engine_failed",replica="g1",variant="stable"}'
        " 1.0",
        'okla_llm_active_requests{replica="g1",variant="stable"} 0.0',
        'okla_llm_response_duration_ms_count{replica="g1",variant="stable"} 1.0',
        'carril_cache_events_total{replica="g1",result="hit",variant="stable"} 1.0',
        'carril_requests_refused_total{code="model_not_found",replica="g1"} 1.0',
    }
    assert wanted - set(page.splitlines()) == set()


def test_raw_config_of_the_tests_is_the_contract_of_the_design() -> None:
    assert set(raw_config()) == {"models", "variants", "experiments"}
