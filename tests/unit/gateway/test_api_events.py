"""Exposures, outcomes and retries, seen from HTTP."""

import asyncio

import pytest

from serve_app.errors import EngineFailed, ModelNotReady, ReplicaLost
from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import CHAT_PATH, MakeGateway, events, unit_of


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
