"""Traces of a whole gateway: which spans there are, how they hang together, what they say."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from serve_app.errors import EngineFailed, ReplicaLost
from serve_app.telemetry.logs import configure_logging
from tests.unit.gateway.builders import CHAT, Gateway

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
FROM_CLIENT = f"00-{TRACE}-{PARENT}-01"
ON = {"enabled": True}


@pytest.fixture
def traced(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway(tracing=ON)


def spans(gateway: Gateway) -> dict[str, ReadableSpan]:
    """Return the spans of a gateway by name, once all are sent; each name once."""
    gateway.tracing.close(5)
    found = gateway.sent_spans.get_finished_spans()
    assert len({span.name for span in found}) == len(found)
    return {span.name: span for span in found}


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def own_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def ask(gateway: Gateway, body: dict[str, Any] | None = None, **headers: str) -> Any:
    async with gateway.client(**headers) as client:
        return await client.post("/v1/chat/completions", json=body or CHAT)


async def test_one_trace_from_the_client_to_the_model(traced: Gateway) -> None:
    answer = await ask(
        traced, traceparent=FROM_CLIENT, tracestate="vendor=1,other=x", **{"x-session-id": "s"}
    )
    assert answer.status_code == 200
    call = traced.variants[answer.headers["x-carril-variant"]].calls[0]
    found = spans(traced)
    variant = answer.headers["x-carril-variant"]
    request = found["POST /v1/chat/completions"]
    model, commit = found[f"chat {variant}"], found["commit exposure"]
    assert len(found) == 3
    assert {span.context.trace_id for span in found.values() if span.context} == {int(TRACE, 16)}
    assert parent_of(request) == int(PARENT, 16)
    assert parent_of(model) == parent_of(commit) == own_id(request)
    assert request.kind is SpanKind.SERVER
    assert model.kind is SpanKind.CLIENT
    assert request.context is not None
    assert request.context.trace_state.to_header() == "vendor=1,other=x"
    # What the model's replica gets, and what the client does.
    assert call.trace is not None
    assert call.trace.traceparent == f"00-{TRACE}-{own_id(model):016x}-03"
    assert call.trace.state == "vendor=1,other=x"
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{own_id(request):016x}-03"


async def test_request_says_what_was_asked_and_who_answered(traced: Gateway) -> None:
    body = {**CHAT, "temperature": 0.5, "max_tokens": 7, "seed": 3}
    answer = await ask(traced, body, **{"x-session-id": "secret session", "x-request-id": "r-1"})
    headers = answer.headers
    found = spans(traced)
    request = said(found["POST /v1/chat/completions"])
    model = said(found[f"chat {headers['x-carril-variant']}"])
    usage = answer.json()["usage"]
    assert request == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "server.address": "gateway",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "carril",
        "gen_ai.request.model": "okla-chat",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stream": False,
        "gen_ai.output.type": "text",
        "gen_ai.response.id": answer.json()["id"],
        "gen_ai.response.model": "okla-chat",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "carril.request_id": "r-1",
        "carril.served_model": "okla-chat",
        "carril.variant": headers["x-carril-variant"],
        "carril.experiment": "okla-v1-v2",
        "carril.exposure": "enrolled",
        "carril.reason": "assigned",
        "carril.cache": "miss",
        "carril.config": headers["x-carril-config"],
        "carril.model.sha256": traced.variants[headers["x-carril-variant"]].weights.model_sha256,
        "carril.retries": 0,
        "carril.tenant": "default",
    }
    assert model["gen_ai.request.model"] == headers["x-carril-variant"]
    assert model["gen_ai.response.model"] == "echo"
    assert model["gen_ai.response.finish_reasons"] == ["stop"]
    assert model["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert model["server.address"] == f"okla-{headers['x-carril-variant']}"
    events = [event.name for event in found["POST /v1/chat/completions"].events]
    assert events == ["admitted", "body_read", "assigned", "cache_looked_up"]


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_that_was_said_is_in_a_trace(traced: Gateway, stream: bool) -> None:
    body = {
        "model": "okla-chat",
        "messages": [{"role": "user", "content": "palabra-secreta"}],
        "stop": ["basta-secreta"],
        "user": "unit-secreta",
        "stream": stream,
    }
    answer = await ask(traced, body, authorization="Bearer llave-secreta")
    assert "palabra-secreta" in answer.text
    found = spans(traced)
    assert found
    assert "secreta" not in " ".join(span.to_json() for span in found.values())


async def test_stream_has_its_first_token_and_lasts_to_its_end(
    make_gateway: Callable[..., Gateway],
) -> None:
    slow = {"echo": {"token_s": 0.02, "n_tokens": 6}, "warmup": False}
    gateway = make_gateway(tracing=ON, engines={"stable": slow, "candidate": slow})
    await ask(gateway, {**CHAT, "stream": True}, traceparent=FROM_CLIENT)
    found = spans(gateway)
    request, model = found["POST /v1/chat/completions"], found["chat stable"]
    [first] = [event for event in request.events if event.name == "first_token"]
    assert request.start_time is not None
    assert request.end_time is not None
    assert model.end_time is not None
    assert request.start_time < first.timestamp < request.end_time
    assert request.end_time - first.timestamp > 0.08e9
    assert model.end_time <= request.end_time
    ttft_s = said(request)["gen_ai.response.time_to_first_chunk"]
    assert ttft_s == pytest.approx((first.timestamp - request.start_time) / 1e9, abs=0.01)
    assert "first_token" in [event.name for event in model.events]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param({"model": "okla-chat"}, 400, "missing_field", id="invalid"),
        pytest.param({**CHAT, "model": "nobody"}, 404, "model_not_found", id="unknown model"),
    ],
)
async def test_refusal_is_the_clients_fault_in_its_trace_too(
    traced: Gateway, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await ask(traced, body)
    assert answer.status_code == status
    [request] = spans(traced).values()
    assert said(request)["error.type"] == code
    assert said(request)["http.response.status_code"] == status
    assert request.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("stream", [False, True])
async def test_failure_of_the_model_is_an_error_on_all_its_spans(
    traced: Gateway, stream: bool
) -> None:
    traced.variants["stable"].faults = [(1, EngineFailed("told to fail, with palabra-secreta"))]
    answer = await ask(traced, {**CHAT, "stream": stream})
    assert answer.status_code == (200 if stream else 500)
    found = spans(traced)
    for name in ("POST /v1/chat/completions", "chat stable"):
        assert said(found[name])["error.type"] == "engine_failed"
        assert found[name].status.status_code is StatusCode.ERROR
        assert "secreta" not in found[name].to_json()


async def test_repeated_call_is_told_as_such(traced: Gateway) -> None:
    traced.variants["stable"].faults = [(0, ReplicaLost("gone"))]
    assert (await ask(traced)).status_code == 200
    found = spans(traced)
    assert said(found["chat stable"])["carril.retries"] == 1
    assert said(found["POST /v1/chat/completions"])["carril.retries"] == 1


async def test_client_that_leaves_is_nobodys_fault(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(tracing=ON, engines={"stable": {"echo": {"prefill_s": 30}}})
    task = asyncio.create_task(ask(gateway))
    while not gateway.n_generations():  # noqa: ASYNC110 (the gateway signals nothing)
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0.05)
    found = spans(gateway)
    assert {said(span)["error.type"] for span in found.values()} == {"cancelled"}
    assert {span.status.status_code for span in found.values()} == {StatusCode.UNSET}


async def test_cached_answer_calls_no_model(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(tracing={"enabled": True, "sample": 0})
    await ask(gateway)
    await ask(gateway, traceparent=FROM_CLIENT)
    found = spans(gateway)
    assert list(found) == ["POST /v1/chat/completions"]
    assert said(found["POST /v1/chat/completions"])["carril.cache"] == "hit"


async def test_who_joins_a_generation_is_linked_to_its_call(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(tracing=ON, engines={"stable": {"echo": {"prefill_s": 0.05}}})
    await asyncio.gather(ask(gateway), ask(gateway))
    gateway.tracing.close(5)
    found = gateway.sent_spans.get_finished_spans()
    assert sorted(span.name for span in found) == ["POST /v1/chat/completions"] * 2 + [
        "chat stable"
    ]
    [call] = [span for span in found if span.name == "chat stable"]
    by_cache = {said(span).get("carril.cache"): span for span in found}
    assert [link.context.span_id for link in by_cache["join"].links] == [own_id(call)]
    assert list(by_cache["miss"].links) == []
    assert parent_of(call) == own_id(by_cache["miss"])


async def test_other_routes_are_traced_too(traced: Gateway) -> None:
    async with traced.client() as client:
        await client.get("/v1/models/okla-chat")
    [request] = spans(traced).values()
    assert request.name == "GET /v1/models/{name:path}"


async def test_copy_for_a_shadow_is_in_the_trace_of_its_original(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(
        tracing=ON,
        models={"fixed": {"variant": "stable"}},
        experiments={},
        shadow={"beside": {"variant": "candidate", "of": "stable", "percent": 100}},
    )
    await ask(gateway, {**CHAT, "model": "fixed"}, traceparent=FROM_CLIENT)
    await gateway.shadow.drain()
    found = spans(gateway)
    copy, request = found["shadow chat candidate"], found["POST /v1/chat/completions"]
    assert parent_of(copy) == own_id(request)
    assert said(copy)["carril.shadow"] == "beside"
    call = gateway.variants["candidate"].calls[0]
    assert call.trace is not None
    assert int(call.trace.span_id, 16) == own_id(copy)


async def test_decision_of_the_client_holds_whatever_the_ratio(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(tracing={"enabled": True, "sample": 1})
    answer = await ask(gateway, traceparent=f"00-{TRACE}-{PARENT}-00")
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceresponse"].endswith("-02")
    [variant] = [variant for variant in gateway.variants.values() if variant.calls]
    assert variant.calls[0].trace is not None
    assert not variant.calls[0].trace.sampled
    assert spans(gateway) == {}


async def test_clients_that_are_not_followed_are_linked(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(tracing={"enabled": True, "follow_clients": False})
    await ask(gateway, traceparent=FROM_CLIENT)
    request = spans(gateway)["POST /v1/chat/completions"]
    assert request.parent is None
    assert request.context is not None
    assert request.context.trace_id != int(TRACE, 16)
    assert [link.context.trace_id for link in request.links] == [int(TRACE, 16)]


async def test_two_traceparents_are_none(traced: Gateway) -> None:
    async with traced.client() as client:
        await client.post(
            "/v1/chat/completions",
            json=CHAT,
            headers=[("traceparent", FROM_CLIENT), ("traceparent", FROM_CLIENT)],
        )
    assert spans(traced)["POST /v1/chat/completions"].parent is None


async def test_off_it_leaves_no_mark(gateway: Gateway) -> None:
    answer = await ask(gateway, traceparent=FROM_CLIENT)
    assert "traceresponse" not in answer.headers
    assert all(call.trace is None for v in gateway.variants.values() for call in v.calls)
    assert gateway.sent_spans.get_finished_spans() == ()


async def test_switched_while_serving(gateway: Gateway) -> None:
    await ask(gateway)
    on = gateway.config.tracing.model_copy(update={"enabled": True})
    gateway.tracing.configure(on)
    seen = await ask(gateway, {**CHAT, "temperature": 1})
    gateway.tracing.configure(gateway.config.tracing)
    unseen = await ask(gateway)
    assert "traceresponse" in seen.headers
    assert "traceresponse" not in unseen.headers
    deadline = asyncio.get_running_loop().time() + 5
    while not gateway.sent_spans.get_finished_spans():  # sent in the background
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_log_records_name_the_trace(
    traced: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    path = configure_logging("gateway")
    try:
        await asyncio.create_task(ask(traced, traceparent=FROM_CLIENT))
        logging.getLogger("serve_app").info("of no request")
    finally:
        for name in ("serve_app", "experiments"):
            for handler in list(logging.getLogger(name).handlers):
                logging.getLogger(name).removeHandler(handler)
                handler.close()
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    of_trace = {record["message"]: record.get("trace_id") for record in records}
    assert of_trace["request"] == TRACE
    assert of_trace["of no request"] is None
