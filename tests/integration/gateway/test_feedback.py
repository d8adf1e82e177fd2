"""Feedback over a real gateway: both forms, replays, keys, early and late, killed writers."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.conftest import CHAT_PATH, Cluster, chat, wait_until
from tests.integration.gateway.load import client

PATH = "/v1/feedback"
README = Path(__file__).parents[3] / "README.md"
DECLARED = {"metrics": {"lead": {"type": "boolean", "level": "episode", "direction": "increase"}}}


def ask(cluster: Cluster, session: str, text: str = "klk", **changes: Any) -> str:
    response = httpx.post(
        cluster.url + CHAT_PATH, json=chat(text, **changes), headers={"x-session-id": session}
    )
    assert response.status_code == 200
    return str(response.json()["id"])


def give(cluster: Cluster, body: dict[str, Any], key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return httpx.post(cluster.url + PATH, json=body, headers=headers)


def stored(cluster: Cluster, target: str) -> list[tuple[Any, ...]]:
    return cluster.query(
        "SELECT metric, value, text FROM feedback WHERE target = ? ORDER BY received_at, metric",
        target,
    )


def exported(cluster: Cluster, *options: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "cluster.cli.main", "feedback", "export", "--out", "-"]
    events = str(cluster.home / "events" / "events.db")
    done = subprocess.run(
        [*command, "--events", events, *options], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_both_forms_are_stored_before_they_are_acknowledged(cluster: Cluster) -> None:
    cluster.deploy(gateway={"feedback": DECLARED})
    session = f"fb-{uuid.uuid4().hex[:8]}"
    inference_id = ask(cluster, session)
    short = {"inference_id": inference_id, "thumbs": "down", "rating": 2, "category": "wrong_price"}
    assert give(cluster, short).status_code == 200
    assert stored(cluster, inference_id) == [
        ("category", None, "wrong_price"),
        ("rating", 2.0, None),
        ("thumbs", 0.0, None),
    ]
    one = {"inference_id": inference_id, "metric_name": "thumbs", "value": True}
    assert give(cluster, one).status_code == 200
    lead = {"episode_id": session, "metric_name": "lead", "value": True}
    assert give(cluster, lead).status_code == 200
    assert stored(cluster, session) == [("lead", 1.0, None)]
    [line] = [x for x in exported(cluster) if x["inference_id"] == inference_id]
    assert (line["thumbs"], line["rating"], line["unit"]) == ("up", 2, session)
    assert cluster.total("carril_feedback_total", metric="thumbs", result="accepted") >= 2


def test_the_commands_of_the_readme_work(cluster: Cluster) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: apt-get install curl)")
    [commands] = re.findall(r"```bash\n(id=\$\(curl [^`]+)```", README.read_text(encoding="utf-8"))
    script = commands.replace("http://127.0.0.1:8000", cluster.url)
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["metrics"] == ["thumbs", "category", "correction"], done.stderr
    assert len(stored(cluster, answer["inference_id"])) == 3


def test_replays_on_any_gateway_are_one_vote_and_other_bodies_conflict(cluster: Cluster) -> None:
    inference_id = ask(cluster, f"fb-{uuid.uuid4().hex[:8]}")
    key = uuid.uuid4().hex
    body = {"inference_id": inference_id, "thumbs": "up"}

    async def repeat() -> list[tuple[int, bytes]]:
        async with client(16) as http:

            async def post(sent: dict[str, Any]) -> tuple[int, bytes]:
                headers = {"idempotency-key": key}
                async with http.post(cluster.url + PATH, json=sent, headers=headers) as response:
                    return response.status, await response.read()

            same = [post(body) for _ in range(24)]
            other = [post(body | {"thumbs": "down"}) for _ in range(4)]
            return list(await asyncio.gather(*same, *other))

    answers = asyncio.run(repeat())
    winners = {answer for status, answer in answers if status == 200}
    assert len(winners) == 1, "one body won, and all its senders read the same"
    assert {status for status, _ in answers} == {200, 409}
    assert len(stored(cluster, inference_id)) == 1
    again = give(cluster, body, key)
    assert again.status_code in (200, 409)
    assert len(stored(cluster, inference_id)) == 1


def test_unknown_requests_are_refused_and_early_feedback_is_taken(cluster: Cluster) -> None:
    unknown = give(cluster, {"inference_id": f"chatcmpl-{uuid.uuid4().hex}", "thumbs": "up"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "inference_not_found"
    slow = {"echo": {"tag": "candidate", "token_s": 0.1, "n_tokens": 30}}
    cluster.deploy(candidate=slow)
    body = chat("x", model="okla-chat@candidate", temperature=1, stream=True, max_tokens=30)
    with httpx.stream("POST", cluster.url + CHAT_PATH, json=body, timeout=30) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: {"))
        inference_id = json.loads(next(lines).removeprefix("data: "))["id"]
        # The answer is still being written; its outcome cannot be stored yet.
        early = give(cluster, {"inference_id": inference_id, "thumbs": "up"})
        assert early.status_code == 200
        assert cluster.query("SELECT 1 FROM outcomes WHERE inference_id = ?", inference_id) == []
        for _ in lines:
            pass
    wait_until(
        lambda: cluster.query("SELECT 1 FROM outcomes WHERE inference_id = ?", inference_id),
        "the outcome is stored",
    )
    [line] = [x for x in exported(cluster) if x["inference_id"] == inference_id]
    assert (line["variant"], line["thumbs"]) == ("candidate", "up")


def test_killed_writer_loses_no_acknowledged_feedback(cluster: Cluster) -> None:
    prefix = f"fbw-{uuid.uuid4().hex[:8]}"
    ids = [ask(cluster, f"{prefix}-{n}", f"pregunta {n}") for n in range(20)]

    def writers() -> list[psutil.Process]:
        found = []
        for process in cluster.record.members():
            try:
                if " ".join(process.cmdline()).startswith("ray::EventWriter"):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    async def give_through_kills() -> dict[str, str]:
        acknowledged: dict[str, str] = {}
        async with client(8) as http:
            numbers = iter(range(300))

            async def work() -> None:
                for number in numbers:
                    target = ids[number % len(ids)]
                    body = {"inference_id": target, "correction": f"{prefix} {number}"}
                    headers = {"idempotency-key": f"{prefix}-{number}"}
                    async with http.post(cluster.url + PATH, json=body, headers=headers) as answer:
                        assert answer.status == 200, await answer.text()
                        acknowledged[str(number)] = (await answer.json())["feedback_id"]

            workers = [asyncio.create_task(work()) for _ in range(8)]
            for _ in range(2):
                await asyncio.sleep(0.4)
                for process in await asyncio.to_thread(writers):
                    process.kill()
            await asyncio.gather(*workers)
        return acknowledged

    assert writers()
    acknowledged = asyncio.run(give_through_kills())
    assert len(acknowledged) == 300

    def found() -> dict[str, str]:
        rows = cluster.query(
            "SELECT text, feedback_id FROM feedback WHERE text LIKE ?", f"{prefix} %"
        )
        assert len(rows) == len({text for text, _ in rows}), "counted twice"
        return {text.split()[1]: feedback_id for text, feedback_id in rows}

    wait_until(lambda: found() == acknowledged, "all feedback stored, once", seconds=40)
    assert cluster.query("SELECT COUNT(*) FROM feedback_conflicts") == [(0,)]


def test_captured_texts_become_training_data_without_personal_data(cluster: Cluster) -> None:
    cluster.deploy(gateway={"capture": {"text": "feedback"}})
    session, cedula = f"fb-{uuid.uuid4().hex[:8]}", "001-1234567-8"
    inference_id = ask(cluster, session, f"mi cedula es {cedula}")
    assert give(cluster, {"inference_id": inference_id, "thumbs": "up"}).status_code == 200
    wait_until(
        lambda: cluster.query("SELECT 1 FROM transcripts WHERE inference_id = ?", inference_id),
        "the text is captured",
    )
    [line] = [x for x in exported(cluster, "--positive") if x["id"].endswith(inference_id)]
    assert line["messages"][0] == {"role": "user", "content": "mi cedula es <CEDULA_1>"}
    assert line["messages"][1]["content"].endswith("mi cedula es <CEDULA_1>")
    files = [p for p in Path(cluster.home).rglob("*") if p.is_file() and p.stat().st_size < 2**26]
    written = [p for p in files if "events" in p.parts or "logs" in p.parts]
    assert written
    assert [p for p in written if cedula.encode() in p.read_bytes()] == []
