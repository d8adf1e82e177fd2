"""Text capture: off by default, redacted before anything is stored, sampled, bounded."""

import json
from typing import Any

import pytest

from experiments.events.records import Transcript
from serve_app.gateway.answer_labels import AnswerLabels, labels_of
from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import CHAT_PATH, MakeGateway, wait_until

SECRET = "Soy Ana, cédula 001-1234567-8, cel 809-555-0142"


def transcripts(gateway: Gateway) -> list[Transcript]:
    return [event for event in gateway.stored if isinstance(event, Transcript)]


def asking(text: str, **changes: Any) -> dict[str, Any]:
    return CHAT | {"messages": [{"role": "user", "content": text}]} | changes


async def ask(gateway: Gateway, text: str, session: str = "s1", **changes: Any) -> str:
    async with gateway.client() as client:
        response = await client.post(
            CHAT_PATH, json=asking(text, **changes), headers={"x-session-id": session}
        )
    assert response.status_code == 200
    if changes.get("stream"):
        return str(json.loads(response.text.split("\n\n")[0].removeprefix("data: "))["id"])
    return str(response.json()["id"])


async def test_nothing_is_captured_unless_asked_for(gateway: Gateway) -> None:
    await ask(gateway, SECRET)
    await gateway.events.flush()
    assert transcripts(gateway) == []
    assert not any("001-1234567-8" in repr(event) for event in gateway.stored)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("mode", ["feedback", "all"])
async def test_captured_text_has_placeholders_for_personal_data(
    make_gateway: MakeGateway, stream: bool, mode: str
) -> None:
    gateway = make_gateway(capture={"text": mode, "unrated_hours": 2, "retention_days": 10})
    inference_id = await ask(gateway, SECRET, stream=stream)
    await wait_until(lambda: bool(transcripts(gateway)), 10)
    [kept] = transcripts(gateway)
    assert kept.inference_id == inference_id
    told = "Soy Ana, cédula <CEDULA_1>, cel <TEL_1>"
    assert json.loads(kept.messages) == [{"role": "user", "content": told}]
    assert kept.answer in (f"stable {told}", f"candidate {told}")
    assert kept.keep_until - kept.captured_at == pytest.approx(10 * 86_400)
    hours = (kept.unrated_until - kept.captured_at) / 3600
    assert hours == pytest.approx(2 if mode == "feedback" else 240)


async def test_failed_answers_are_not_captured(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(
        capture={"text": "all"}, engines={"stable": {"echo": {"fail_rate": 1.0}}}
    )
    async with gateway.client() as client:
        assert (await client.post(CHAT_PATH, json=CHAT)).status_code == 500
    await gateway.events.flush()
    assert transcripts(gateway) == []


async def test_sample_takes_whole_sessions(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(capture={"text": "all", "sample_percent": 30}, cache={"enabled": False})
    for n in range(60):
        for text in ("uno", "dos"):
            await ask(gateway, text, f"s{n}")
    await wait_until(lambda: not gateway.capture._pending, 10)
    await gateway.events.flush()
    units = {o.inference_id: o.unit for o in gateway.outcomes()}
    kept = [units[t.inference_id] for t in transcripts(gateway)]
    assert 5 <= len(set(kept)) <= 32, "30 % of 60 sessions, within four sigma"
    assert all(kept.count(unit) == 2 for unit in kept)


async def test_long_conversations_are_left_out_and_counted(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(capture={"text": "all", "max_chars": 50})
    await ask(gateway, "x " * 60)
    await gateway.events.flush()
    assert transcripts(gateway) == []
    assert gateway.metrics.transcripts.labels("too_long")._value.get() == 1


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ('{"intent":"saludo","confidence":0.9}', AnswerLabels("saludo", 0.9)),
        ('{"response":"x","intent":"saludo"}', AnswerLabels("saludo", None)),
        ('{"intent":"Me llamo Ana","confidence":7}', AnswerLabels()),
        ('{"intent":5,"confidence":true}', AnswerLabels()),
        ('{"intent":"saludo"', AnswerLabels()),
        ("[1]", AnswerLabels()),
        ("klk", AnswerLabels()),
        ("", AnswerLabels()),
        ('{"intent":"' + "x" * 60 + '"}', AnswerLabels()),
    ],
)
def test_labels_of_an_answer(answer: str, labels: AnswerLabels) -> None:
    assert labels_of(answer) == labels


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_outcome_says_what_the_answer_calls_itself(
    make_gateway: MakeGateway, stream: bool
) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"tag": ""}}})
    said = '{"response":"Dime","intent":"saludo","confidence":0.91}'
    async with gateway.client() as client:
        await client.post(CHAT_PATH, json=asking(said, stream=stream))
        await client.post(CHAT_PATH, json=asking("klk", stream=stream))
    await gateway.events.flush()
    labels = [(outcome.intent, outcome.confidence) for outcome in gateway.outcomes()]
    assert labels == [("saludo", 0.91), (None, None)]
