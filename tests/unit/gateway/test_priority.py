"""Classes of requests on a whole gateway: who may ask for what, and what never depends on it."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import LimitsConfig
from serve_app.engines.protocol import Priority
from serve_app.errors import Overloaded, RateLimited
from serve_app.gateway import variants
from serve_app.gateway.admission import Admission
from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import CHAT_PATH, wait_until
from tests.unit.gateway.test_shadow import FRESH, ask, settled
from tests.unit.gateway.test_shadow import gateway as shadowed

FIXED = CHAT | {"model": "fixed"}


def sent(under: Gateway) -> list[Priority]:
    return [call.request.priority for call in under.variants["candidate"].calls]


@pytest.mark.parametrize(
    ("header", "priority"),
    [
        pytest.param({}, "interactive", id="none"),
        pytest.param({"x-carril-priority": "batch"}, "batch", id="batch"),
        pytest.param({"x-carril-priority": " Background "}, "background", id="any case"),
    ],
)
async def test_header_says_the_class(
    tmp_path: Path, header: dict[str, str], priority: Priority
) -> None:
    under = Gateway(tmp_path)
    async with under.client(**header) as client:
        assert (await client.post(CHAT_PATH, json=FIXED)).status_code == 200
        text = {"model": "fixed", "prompt": ["a", "b"]}
        assert (await client.post("/v1/completions", json=text)).status_code == 200
    assert sent(under) == [priority] * 3


async def test_unknown_class_is_refused_by_name(tmp_path: Path) -> None:
    under = Gateway(tmp_path)
    async with under.client(**{"x-carril-priority": "urgent"}) as client:
        answer = await client.post(CHAT_PATH, json=FIXED)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "x-carril-priority")
    assert "'urgent'" in error["message"]
    assert "interactive, batch, background" in error["message"]
    assert sent(under) == []


async def test_a_key_for_batch_work_cannot_go_before_users(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"k").hexdigest()
    auth = {"keys": [{"name": "nightly", "sha256": sha256, "priority": "batch"}]}
    under = Gateway(tmp_path, auth=auth)
    async with under.client(authorization="Bearer k") as client:
        assert (await client.post(CHAT_PATH, json=FIXED)).status_code == 200
        lower = {"x-carril-priority": "background"}
        fresh = FIXED | {"temperature": 1}
        assert (await client.post(CHAT_PATH, json=fresh, headers=lower)).status_code == 200
        higher = {"x-carril-priority": "interactive"}
        answer = await client.post(CHAT_PATH, json=FIXED, headers=higher)
    assert answer.status_code == 403
    assert "'nightly'" in answer.json()["error"]["message"]
    assert sent(under) == ["batch", "background"]


async def test_answers_are_shared_through_the_cache_but_not_while_they_are_made(
    tmp_path: Path,
) -> None:
    """Who joined a generation of a lesser class would wait like it."""
    under = Gateway(tmp_path, engines={"candidate": {"echo": {"prefill_s": 0.05}}})
    body = FIXED | {"temperature": 0}
    async with under.client() as client:
        batch = {"x-carril-priority": "batch"}
        answers = await asyncio.gather(
            client.post(CHAT_PATH, json=body, headers=batch),
            client.post(CHAT_PATH, json=body),
            client.post(CHAT_PATH, json=body),
        )
        assert [a.headers["x-carril-cache"] for a in answers] == ["miss", "miss", "join"]
        later = await client.post(CHAT_PATH, json=body, headers=batch)
    assert later.headers["x-carril-cache"] == "hit"
    assert sorted(sent(under)) == ["batch", "interactive"]


async def test_copies_are_background_whatever_the_original_was(tmp_path: Path) -> None:
    under = shadowed(tmp_path)
    await ask(under, FRESH, 1, **{"x-carril-priority": "batch"})
    await settled(under)
    (copy,) = under.variants["candidate"].calls
    assert copy.request.priority == "background"
    assert [call.request.priority for call in under.variants["stable"].calls] == ["batch"]


async def test_lesser_work_beyond_a_few_calls_waits_in_the_gateway(tmp_path: Path) -> None:
    limit = variants._LESSER_AT_ONCE["batch"]
    under = Gateway(tmp_path, engines={"candidate": {"echo": {"prefill_s": 0.1}, "n_slots": 64}})
    fresh: dict[str, Any] = FIXED | {"temperature": 1}
    async with under.client() as client:
        batch = [
            asyncio.create_task(
                client.post(CHAT_PATH, json=fresh, headers={"x-carril-priority": "batch"})
            )
            for _ in range(limit + 5)
        ]
        await wait_until(lambda: len(sent(under)) == limit)
        assert (await client.post(CHAT_PATH, json=fresh)).status_code == 200
        assert sent(under)[limit] == "interactive"
        assert {answer.status_code for answer in await asyncio.gather(*batch)} == {200}
    assert len(sent(under)) == limit + 6


def test_lesser_work_leaves_places_of_the_gateway_and_of_its_tenant() -> None:
    admission = Admission(LimitsConfig(max_in_flight=8, max_in_flight_per_tenant=4))
    releases = [admission.enter("a", priority="batch") for _ in range(3)]
    with pytest.raises(RateLimited, match="below 'interactive'"):
        admission.enter("a", priority="background")
    admission.enter("a")()
    releases += [admission.enter("b", priority="background") for _ in range(3)]
    with pytest.raises(Overloaded, match="'batch'"):
        admission.enter("c", priority="batch")
    for release in releases:
        release()
        release()
    admission.enter("a", 3, "batch")()
    assert admission.in_flight == 0
