"""Faults: killed replicas and writers, clients that leave, deadlines, overload."""

import asyncio
import os
import signal
import time
import uuid
from typing import Any

import aiohttp
import httpx
import psutil
import pytest

from tests.integration.conftest import CHAT_PATH, Cluster, chat, split, wait_until
from tests.integration.gateway.load import Answer, ask, client, failures

N = 200


async def kill_under(
    cluster: Cluster, bodies: list[dict[str, Any]], prefix: str, after_s: float
) -> list[Answer]:
    """Ask everything at once, and kill a replica of `stable` a moment later."""
    async with client(N) as http:
        tasks = [
            asyncio.create_task(ask(http, cluster.url, body, f"{prefix}-{n}"))
            for n, body in enumerate(bodies)
        ]
        await asyncio.sleep(after_s)
        victim = (await asyncio.to_thread(cluster.replicas, "okla-stable"))[0]
        os.kill(victim.pid, signal.SIGKILL)
        return list(await asyncio.gather(*tasks))


def exposed(cluster: Cluster, prefix: str) -> int:
    found = cluster.query("SELECT COUNT(*) FROM exposures WHERE unit LIKE ?", f"{prefix}-%")
    return int(found[0][0])


def test_killed_model_replica_costs_no_answer_and_no_second_exposure(cluster: Cluster) -> None:
    cluster.deploy(
        gateway={"experiments": split(100)}, stable={"echo": {"tag": "stable", "prefill_s": 1.5}}
    )
    prefix = f"kill-{uuid.uuid4().hex[:8]}"
    bodies = [chat(f"pregunta {n}", temperature=1) for n in range(N)]
    answers = asyncio.run(kill_under(cluster, bodies, prefix, 0.8))
    assert failures(answers) == []
    assert len(answers) == N
    for number, answer in enumerate(answers):
        assert answer.content == f"stable pregunta {number}"
    wait_until(lambda: exposed(cluster, prefix) == N, "every session exposed once")
    assert cluster.query("SELECT 1 FROM exposure_conflicts WHERE unit LIKE ?", f"{prefix}-%") == []
    assert cluster.total("carril_retries_total", variant="stable") > 0
    cluster.wait_ready()


def test_streams_of_a_killed_replica_end_with_an_error_event(cluster: Cluster) -> None:
    cluster.deploy(
        gateway={"experiments": split(100)},
        stable={"echo": {"tag": "stable", "token_s": 0.1, "n_tokens": 40}},
    )
    prefix = f"cut-{uuid.uuid4().hex[:8]}"
    bodies = [chat(f"pregunta {n}", temperature=1, stream=True, max_tokens=100) for n in range(60)]
    answers = asyncio.run(kill_under(cluster, bodies, prefix, 2.5))
    assert [answer for answer in answers if answer.status != 200 or answer.error] == []
    lasts = [answer.events[-1] for answer in answers]
    cut = [last for last in lasts if last != "[DONE]"]
    assert 0 < len(cut) < len(answers), "one of two replicas was killed"
    for last in cut:
        assert last["error"]["code"] == "replica_lost"
        assert last["error"]["request_id"]
    wait_until(lambda: exposed(cluster, prefix) == 60, "every session exposed once")
    cluster.wait_ready()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_client_that_leaves_frees_the_engine(cluster: Cluster, stream: bool) -> None:
    slow = {"tag": "candidate", "token_s": 0.2, "n_tokens": 300}
    cluster.deploy(candidate={"echo": slow})
    body = chat("x", model="okla-chat@candidate", temperature=1, stream=stream, max_tokens=1000)

    def running() -> float:
        return cluster.total("carril_engine_running", variant="candidate")

    async def leave() -> None:
        async with client() as http:
            task = asyncio.create_task(ask(http, cluster.url, body))
            deadline = time.monotonic() + 10
            while await asyncio.to_thread(running) != 1:
                assert time.monotonic() < deadline
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(leave())
    started = time.monotonic()
    wait_until(lambda: running() == 0, "the slot is free", seconds=5)
    assert time.monotonic() - started < 1.5
    active = cluster.samples("okla_llm_active_requests", variant="candidate")
    assert sum(active.values()) == 0


def test_clients_that_connect_and_drop_leave_nothing_behind(cluster: Cluster) -> None:
    slow = {"tag": "candidate", "token_s": 0.2, "n_tokens": 300}
    cluster.deploy(candidate={"echo": slow})

    async def drop(http: aiohttp.ClientSession, number: int) -> None:
        body = chat(f"{number}", model="okla-chat@candidate", temperature=1, stream=number % 2 == 0)
        task = asyncio.create_task(ask(http, cluster.url, body | {"max_tokens": 1000}))
        await asyncio.sleep(0.002 * (number % 25))
        task.cancel()
        await asyncio.wait([task])

    async def storm() -> None:
        async with client(50) as http:
            for start in range(0, 200, 50):
                await asyncio.gather(*(drop(http, start + n) for n in range(50)))

    asyncio.run(storm())

    def at_rest() -> bool:
        return (
            cluster.total("carril_engine_running", variant="candidate") == 0
            and cluster.total("okla_llm_active_requests") == 0
        )

    wait_until(at_rest, "nothing runs any more", seconds=5)
    assert httpx.post(cluster.url + CHAT_PATH, json=chat()).status_code == 200


@pytest.mark.parametrize("value", [None, "0", "-1", "nan"])
def test_deadline_is_ours_whatever_the_client_says(cluster: Cluster, value: str | None) -> None:
    cluster.deploy(
        gateway={"limits": {"deadline_s": 0.5}},
        candidate={"echo": {"tag": "candidate", "prefill_s": 60}, "warmup": False},
    )
    headers = {"x-request-timeout-seconds": value} if value else {}
    for stream in (False, True):
        started = time.monotonic()
        response = httpx.post(
            cluster.url + CHAT_PATH,
            json=chat(model="okla-chat@candidate", temperature=1, stream=stream),
            headers=headers,
            timeout=20,
        )
        assert time.monotonic() - started < 3
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        assert response.headers["x-should-retry"] == "false"
    wait_until(
        lambda: cluster.total("carril_engine_running", variant="candidate") == 0, "slots are free"
    )


def test_overload_is_refused_at_once_with_a_time_to_come_back(cluster: Cluster) -> None:
    cluster.deploy(
        gateway={"limits": {"max_in_flight": 20, "max_in_flight_per_tenant": 10}},
        candidate={"echo": {"tag": "candidate", "prefill_s": 1.0}},
    )
    body = chat(model="okla-chat@candidate", temperature=1)

    async def flood() -> list[Answer]:
        async with client(100) as http:
            return list(await asyncio.gather(*(ask(http, cluster.url, body) for _ in range(100))))

    answers = asyncio.run(flood())
    by_status = {status: [a for a in answers if a.status == status] for status in (200, 429)}
    assert sum(len(found) for found in by_status.values()) == 100
    assert 10 <= len(by_status[200]) <= 20
    for answer in by_status[429]:
        assert int(answer.headers["retry-after"]) >= 1
        assert b'"rate_limited"' in answer.body


def test_full_queue_of_a_model_is_a_503_with_a_time(cluster: Cluster) -> None:
    cluster.deploy(
        candidate={
            "n_slots": 1,
            "max_queue": 2,
            "echo": {"tag": "candidate", "prefill_s": 0.5},
        }
    )
    body = chat(model="okla-chat@candidate", temperature=1)

    async def flood() -> list[Answer]:
        async with client(40) as http:
            return list(await asyncio.gather(*(ask(http, cluster.url, body) for _ in range(40))))

    answers = asyncio.run(flood())
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) + sum(answer.status == 200 for answer in answers) == 40
    assert refused
    for answer in refused:
        assert answer.headers["retry-after"] == "1"
        assert b'"overloaded"' in answer.body


def test_killed_event_writer_loses_no_acknowledged_exposure(cluster: Cluster) -> None:
    prefix = f"writer-{uuid.uuid4().hex[:8]}"

    def writers() -> list[psutil.Process]:
        found = []
        for process in cluster.record.members():
            try:
                if " ".join(process.cmdline()).startswith("ray::EventWriter"):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    async def ask_through_kills() -> list[Answer]:
        async with client(16) as http:
            answers: list[Answer] = []
            numbers = iter(range(600))

            async def work() -> None:
                for number in numbers:
                    session = f"{prefix}-{number}"
                    answers.append(await ask(http, cluster.url, chat(temperature=1), session))

            workers = [asyncio.create_task(work()) for _ in range(16)]
            for _ in range(2):
                await asyncio.sleep(0.5)
                for process in await asyncio.to_thread(writers):
                    process.kill()
            await asyncio.gather(*workers)
            return answers

    assert writers()
    answers = asyncio.run(ask_through_kills())
    assert failures(answers) == []
    wait_until(lambda: exposed(cluster, prefix) == 600, "all exposures stored", seconds=40)
    rows = cluster.query("SELECT unit, variant FROM exposures WHERE unit LIKE ?", f"{prefix}-%")
    assert dict(rows) == {answer.session: answer.variant for answer in answers}
    lost = cluster.total("carril_events_lost_total")
    assert lost == 0


def test_metrics_join_every_replica(cluster: Cluster) -> None:
    for variant in ("stable", "candidate"):
        for _ in range(12):
            httpx.post(
                cluster.url + CHAT_PATH,
                json=chat(model=f"okla-chat@{variant}", temperature=1),
            )
    gateways = {replica for _, replica in cluster.samples("okla_llm_uptime_seconds")}
    assert len(gateways) == 2
    loaded = cluster.samples("okla_llm_model_loaded")
    assert sorted(variant for variant, _ in loaded) == ["candidate", "stable", "stable"]
    assert set(loaded.values()) == {1.0}
    assert cluster.total("okla_llm_requests_total", variant="candidate") >= 12
    page = httpx.get(f"{cluster.url}/metrics").text
    helps = [line for line in page.splitlines() if line.startswith("# HELP")]
    assert len(helps) == len(set(helps))


def test_logs_name_the_variant_and_hide_what_was_said(cluster: Cluster) -> None:
    secret, session = f"secreto-{uuid.uuid4().hex}", f"sesion-{uuid.uuid4().hex}"
    httpx.post(
        cluster.url + CHAT_PATH,
        json=chat(secret),
        headers={"x-session-id": session, "x-request-id": "it-log-1"},
    )
    wait_until(lambda: '"it-log-1"' in cluster.logs(), "the request is in the log")
    logs = cluster.logs()
    assert secret not in logs
    assert session not in logs
