"""The response cache and single flight, seen from HTTP."""

import asyncio
from typing import Any

import pytest

from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import (
    CHAT_PATH,
    Connection,
    MakeGateway,
    events,
    text_of,
    wait_until,
)


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
