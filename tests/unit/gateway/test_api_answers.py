"""Answers over HTTP: OpenAI shapes, text models, completions, the SDK."""

import json
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from serve_app.errors import EngineFailed
from tests.unit.gateway.builders import CHAT, Gateway, raw_config
from tests.unit.gateway.over_http import CHAT_PATH, MakeGateway, events, keys, text_of, unit_of


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
        "x-carril-reason": "assigned",
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
