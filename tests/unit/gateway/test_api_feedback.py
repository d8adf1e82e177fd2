"""POST /v1/feedback: both forms, what is refused, replays, and what is durable."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from experiments.feedback.metrics import Category
from serve_app.gateway.inference_ids import InferenceIds
from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import CHAT_PATH, MakeGateway, keys

PATH = "/v1/feedback"
LEVEL_CONFIG: dict[str, Any] = {
    "feedback": {
        "metrics": {
            "lead": {"type": "boolean", "level": "episode", "direction": "increase"},
            "nps": {"type": "integer", "level": "episode", "min": 0, "max": 10},
            "usefulness": {"type": "float", "min": -1, "max": 1, "direction": "increase"},
            "reason": {"type": "category", "categories": ["price", "tone"]},
        }
    }
}


async def answered(client: httpx.AsyncClient, session: str = "s1") -> str:
    response = await client.post(CHAT_PATH, json=CHAT, headers={"x-session-id": session})
    assert response.status_code == 200
    return str(response.json()["id"])


async def give(client: httpx.AsyncClient, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await client.post(PATH, json=body, headers=headers)


def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert error["request_id"]
    assert error["message"]
    return response.status_code, error["code"], error["param"]


async def test_short_form_is_one_vote_per_built_in_metric(gateway: Gateway) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        response = await give(
            client,
            inference_id=inference_id,
            thumbs="down",
            rating=2,
            category="wrong_price",
            correction="La inicial es 20 %",
            tags={"screen": "chat"},
        )
    assert response.status_code == 200
    body = response.json()
    assert (body["object"], body["inference_id"]) == ("feedback", inference_id)
    votes = {vote.metric: vote for vote in gateway.votes()}
    assert set(votes) == set(body["metrics"]) == {"thumbs", "rating", "category", "correction"}
    assert {vote.feedback_id for vote in votes.values()} == {body["feedback_id"]}
    assert (votes["thumbs"].value, votes["rating"].value) == (0.0, 2.0)
    assert votes["category"].text == "wrong_price"
    assert votes["correction"].text == "La inicial es 20 %"
    for vote in votes.values():
        assert (vote.target, vote.level, vote.tenant) == (inference_id, "inference", "default")
        assert json.loads(vote.tags) == {"screen": "chat"}
        assert vote.config_hash == gateway.config.config_hash


async def test_metric_form_takes_every_declared_type(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**LEVEL_CONFIG)
    async with gateway.client() as client:
        inference_id = await answered(client)
        sent: list[tuple[str, Any, dict[str, str]]] = [
            ("thumbs", True, {"inference_id": inference_id}),
            ("usefulness", -0.25, {"inference_id": inference_id}),
            ("usefulness", 1, {"inference_id": inference_id}),
            ("reason", "tone", {"inference_id": inference_id}),
            ("correction", "mejor así", {"inference_id": inference_id}),
            ("lead", True, {"episode_id": "s1"}),
            ("nps", 9, {"episode_id": "s1"}),
        ]
        for metric, value, target in sent:
            response = await give(client, metric_name=metric, value=value, **target)
            assert response.status_code == 200, response.text
    stored = [(v.metric, v.value if v.text is None else v.text, v.target) for v in gateway.votes()]
    assert stored == [(m, v, next(iter(t.values()))) for m, v, t in sent]


@pytest.mark.parametrize("category", list(Category))
async def test_each_of_the_twelve_categories_is_taken(gateway: Gateway, category: str) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        assert (await give(client, inference_id=inference_id, category=category)).is_success
    assert [vote.text for vote in gateway.votes()] == [category]


def test_there_are_twelve_categories() -> None:
    assert len(Category) == 12


ID = "the id of an answer"
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("nothing", {}, "missing_field", "inference_id"),
    ("no metric", {"inference_id": ID}, "missing_field", "metric_name"),
    ("both targets", {"inference_id": ID, "episode_id": "s1"}, "missing_field", "inference_id"),
    ("no target", {"thumbs": "up"}, "missing_field", "inference_id"),
    ("both forms", {"inference_id": ID, "thumbs": "up", "metric_name": "rating", "value": 1},
     "invalid_value", "thumbs"),
    ("value alone", {"inference_id": ID, "value": 1}, "missing_field", "metric_name"),
    ("no value", {"inference_id": ID, "metric_name": "rating"}, "missing_field", "value"),
    ("null value", {"inference_id": ID, "metric_name": "rating", "value": None},
     "missing_field", "value"),
    ("undeclared", {"inference_id": ID, "metric_name": "joy", "value": 1},
     "invalid_value", "metric_name"),
    ("unknown field", {"inference_id": ID, "stars": 5}, "unsupported_parameter", "stars"),
    ("thumbs word", {"inference_id": ID, "thumbs": "sideways"}, "invalid_value", "thumbs"),
    ("thumbs number", {"inference_id": ID, "metric_name": "thumbs", "value": 1},
     "invalid_value", "value"),
    ("rating 0", {"inference_id": ID, "rating": 0}, "invalid_value", "rating"),
    ("rating 6", {"inference_id": ID, "rating": 6}, "invalid_value", "rating"),
    ("rating 4.5", {"inference_id": ID, "rating": 4.5}, "invalid_value", "rating"),
    ("rating true", {"inference_id": ID, "rating": True}, "invalid_value", "rating"),
    ("rating text", {"inference_id": ID, "rating": "5"}, "invalid_value", "rating"),
    ("rating true, metric", {"inference_id": ID, "metric_name": "rating", "value": True},
     "invalid_value", "value"),
    ("rating list", {"inference_id": ID, "metric_name": "rating", "value": [5]},
     "invalid_value", "value"),
    ("huge", {"inference_id": ID, "metric_name": "usefulness", "value": 10**400},
     "invalid_json", ""),
    ("large", {"inference_id": ID, "metric_name": "usefulness", "value": 2**63},
     "invalid_value", "value"),
    ("out of range", {"inference_id": ID, "metric_name": "usefulness", "value": 1.0001},
     "invalid_value", "value"),
    ("category", {"inference_id": ID, "category": "meh"}, "invalid_value", "category"),
    ("empty correction", {"inference_id": ID, "correction": "  "}, "invalid_value", "correction"),
    ("long correction", {"inference_id": ID, "correction": "x" * 2001},
     "invalid_value", "correction"),
    ("NUL", {"inference_id": ID, "correction": "a\x00b"}, "invalid_value", "correction"),
    ("NUL tag", {"inference_id": ID, "thumbs": "up", "tags": {"a": "\x00"}},
     "invalid_value", "tags.a"),
    ("NUL episode", {"episode_id": "\x00", "metric_name": "lead", "value": True},
     "invalid_value", "episode_id"),
    ("level", {"episode_id": "s1", "thumbs": "up"}, "invalid_value", "episode_id"),
    ("level of a metric", {"inference_id": ID, "metric_name": "lead", "value": True},
     "invalid_value", "inference_id"),
    ("tags list", {"inference_id": ID, "thumbs": "up", "tags": ["a"]}, "invalid_value", "tags"),
    ("tag number", {"inference_id": ID, "thumbs": "up", "tags": {"a": 1}},
     "invalid_value", "tags.a"),
    ("many tags", {"inference_id": ID, "thumbs": "up", "tags": {str(n): "" for n in range(17)}},
     "invalid_value", "tags"),
    ("long episode", {"episode_id": "s" * 513, "metric_name": "lead", "value": True},
     "invalid_value", "episode_id"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code", "param"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
async def test_bad_feedback_is_refused_with_the_field_at_fault(
    make_gateway: MakeGateway, body: dict[str, Any], code: str, param: str
) -> None:
    gateway = make_gateway(**LEVEL_CONFIG)
    async with gateway.client() as client:
        if "inference_id" in body:
            body = body | {"inference_id": await answered(client)}
        response = await give(client, **body)
    status, got_code, got_param = error_of(response)
    assert status == 400, response.text
    assert (got_code, got_param or "") == (code, param), response.text
    assert response.headers["x-should-retry"] == "false"
    assert gateway.votes() == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none_are_refused(make_gateway: MakeGateway, number: str) -> None:
    gateway = make_gateway(**LEVEL_CONFIG)
    async with gateway.client() as client:
        inference_id = await answered(client)
        text = f'{{"inference_id":"{inference_id}","metric_name":"usefulness","value":{number}}}'
        response = await client.post(
            PATH, content=text, headers={"content-type": "application/json"}
        )
    assert response.status_code == 400
    assert gateway.votes() == []


async def test_unknown_and_foreign_requests_are_refused_alike(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**keys(one="acme", two="globex"))
    async with gateway.client() as client:
        mine = {"authorization": "Bearer one"}
        theirs = {"authorization": "Bearer two"}
        inference_id = (await client.post(CHAT_PATH, json=CHAT, headers=mine)).json()["id"]
        elsewhere = InferenceIds(b"another deployment").new("chatcmpl", "acme")
        other_digit = "0" if inference_id[-1] != "0" else "1"
        refused = [
            await client.post(PATH, json={"inference_id": known, "thumbs": "up"}, headers=headers)
            for known, headers in (
                (inference_id, theirs),
                (elsewhere, mine),
                (inference_id[:-1] + other_digit, mine),
                (f"chatcmpl-{'0' * 32}", mine),
                ("' OR 1=1 --", mine),
                ("é" * 512, mine),
            )
        ]
        accepted = await client.post(
            PATH, json={"inference_id": inference_id, "thumbs": "up"}, headers=mine
        )
    for response in refused:
        assert error_of(response) == (404, "inference_not_found", "inference_id")
    shapes = {r.json()["error"]["message"].replace("'", "").split(" ")[0] for r in refused}
    assert shapes == {"no"}
    assert accepted.status_code == 200
    assert {vote.tenant for vote in gateway.votes()} == {"acme"}


async def test_episodes_of_two_tenants_never_meet(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**LEVEL_CONFIG, **keys(one="default", two="globex"))
    async with gateway.client() as client:
        for key in ("one", "two"):
            response = await client.post(
                PATH,
                json={"episode_id": "s1", "metric_name": "lead", "value": True},
                headers={"authorization": f"Bearer {key}"},
            )
            assert response.status_code == 200
    assert [vote.target for vote in gateway.votes()] == ["s1", "globex/s1"]


async def test_feedback_may_come_before_the_outcome_is_stored(gateway: Gateway) -> None:
    early = gateway.ids.new("chatcmpl", "default")
    async with gateway.client() as client:
        response = await give(client, inference_id=early, thumbs="up")
    assert response.status_code == 200
    assert [vote.target for vote in gateway.votes()] == [early]
    assert gateway.outcomes() == []


@pytest.mark.parametrize(("days", "status"), [(89, 200), (91, 400)])
async def test_feedback_may_come_late_but_not_after_everything_is_gone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, days: int, status: int
) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        import time

        now = time.time
        monkeypatch.setattr("serve_app.gateway.feedback.time.time", lambda: now() + days * 86_400)
        response = await give(client, inference_id=inference_id, thumbs="up")
    assert response.status_code == status
    if status == 400:
        assert "91 days old" in response.json()["error"]["message"]


async def test_answer_of_a_gateway_whose_clock_is_ahead_takes_feedback(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    now = time.time()
    with monkeypatch.context() as ahead:
        ahead.setattr(
            "serve_app.gateway.inference_ids.time.time_ns", lambda: int((now + 3600) * 1e9)
        )
        inference_id = gateway.ids.new("chatcmpl", "default")
    async with gateway.client() as client:
        assert (await give(client, inference_id=inference_id, thumbs="up")).status_code == 200
    [vote] = gateway.votes()
    assert abs(vote.received_at - now) < 60, "the vote's time is the receiving gateway's"


async def test_replay_under_a_key_is_answered_alike_and_stored_once(gateway: Gateway) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        first = await give(client, "k1", inference_id=inference_id, thumbs="up", rating=5)
        again = await give(client, "k1", rating=5, thumbs="up", inference_id=inference_id)
        other_key = await give(client, "k2", inference_id=inference_id, thumbs="up", rating=5)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert other_key.json()["feedback_id"] != first.json()["feedback_id"]
    assert len(gateway.votes()) == 4


async def test_key_with_another_body_is_a_conflict(gateway: Gateway) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        await give(client, "k1", inference_id=inference_id, thumbs="up")
        response = await give(client, "k1", inference_id=inference_id, thumbs="down")
    assert error_of(response) == (409, "idempotency_conflict", "Idempotency-Key")
    assert response.headers["x-should-retry"] == "false"
    assert [vote.value for vote in gateway.votes()] == [1.0]


async def test_same_key_of_two_tenants_is_two_keys(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**LEVEL_CONFIG, **keys(one="acme", two="globex"))
    async with gateway.client() as client:
        for key, value in (("one", True), ("two", False)):
            response = await client.post(
                PATH,
                json={"episode_id": "s1", "metric_name": "lead", "value": value},
                headers={"authorization": f"Bearer {key}", "idempotency-key": "k1"},
            )
            assert response.status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_unusable_keys_are_refused(gateway: Gateway, key: str) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        response = await give(client, key, inference_id=inference_id, thumbs="up")
    assert error_of(response) == (400, "invalid_value", "Idempotency-Key")


async def test_dry_run_checks_and_stores_nothing(gateway: Gateway) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        good = await give(client, inference_id=inference_id, thumbs="up", dryrun=True)
        bad = await give(client, inference_id=inference_id, rating=9, dryrun=True)
    assert (good.status_code, bad.status_code) == (200, 400)
    assert gateway.votes() == []


async def test_personal_data_never_reaches_the_store(gateway: Gateway) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        await give(
            client,
            inference_id=inference_id,
            correction="Soy 001-1234567-8, llama al 809-555-0142 o juan@example.com",
            tags={"tel": "8095550142"},
        )
    [vote] = gateway.votes()
    assert vote.text == "Soy <CEDULA_1>, llama al <TEL_1> o <EMAIL_1>"
    assert json.loads(vote.tags)["tel"].startswith("<TEL_")


async def test_feedback_goes_to_the_spool_while_the_writer_is_down(
    gateway: Gateway, tmp_path: Any
) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        gateway.refuse_events = True
        response = await give(client, inference_id=inference_id, thumbs="up")
    assert response.status_code == 200
    [line] = (tmp_path / "spool" / "test.jsonl").read_text(encoding="utf-8").splitlines()[-1:]
    assert json.loads(line)["kind"] == "feedback"


@pytest.mark.parametrize("durability", ["strict", "spool", "best_effort"])
async def test_feedback_that_can_be_stored_nowhere_is_not_acknowledged(
    make_gateway: MakeGateway, tmp_path: Any, durability: str
) -> None:
    gateway = make_gateway(events={"durability": durability})
    async with gateway.client() as client:
        inference_id = await answered(client)
        await gateway.events.flush()
        gateway.refuse_events = True
        (tmp_path / "spool").write_text("a file where the directory should be")
        response = await give(client, inference_id=inference_id, thumbs="up")
        gateway.refuse_events = False
    assert error_of(response) == (503, "events_unavailable", None)
    assert response.headers["retry-after"] == "2"
    assert gateway.metrics.feedback.labels("thumbs", "unavailable")._value.get() == 1


async def test_every_result_is_counted(gateway: Gateway) -> None:
    async with gateway.client() as client:
        inference_id = await answered(client)
        await give(client, "k", inference_id=inference_id, thumbs="up", rating=4)
        await give(client, "k", inference_id=inference_id, thumbs="up", rating=4)
        await give(client, inference_id=inference_id, rating=9)
        await give(client, inference_id=inference_id, metric_name="joy", value=1)
        page = (await client.get("/metrics")).text
    counts = {
        (metric, result): gateway.metrics.feedback.labels(metric, result)._value.get()
        for metric in ("thumbs", "rating", "")
        for result in ("accepted", "replayed", "refused")
    }
    assert counts == {
        ("thumbs", "accepted"): 1,
        ("thumbs", "replayed"): 1,
        ("thumbs", "refused"): 0,
        ("rating", "accepted"): 1,
        ("rating", "replayed"): 1,
        ("rating", "refused"): 1,
        ("", "accepted"): 0,
        ("", "replayed"): 0,
        ("", "refused"): 1,
    }
    assert "carril_feedback_total{" in page


async def test_many_at_once_are_all_stored_once(gateway: Gateway) -> None:
    async with gateway.client() as client:
        ids = [await answered(client, f"s{n}") for n in range(10)]
        responses = await asyncio.gather(
            *(
                give(client, f"k{n % 60}", inference_id=ids[n % 10], rating=n % 5 + 1)
                for n in range(120)
            )
        )
    assert {response.status_code for response in responses} == {200}
    assert len({vote.feedback_id for vote in gateway.votes()}) == 60
