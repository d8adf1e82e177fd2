"""Errors over HTTP: bad input, failures, keys, limits."""

import asyncio
import json
import time
from typing import Any

import pytest

from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import CHAT_PATH, MakeGateway, events, keys, text_of, wait_until

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
        started = time.process_time()
        response = await client.request(method, path, content=content, headers=headers)
        took_s = time.process_time() - started
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
