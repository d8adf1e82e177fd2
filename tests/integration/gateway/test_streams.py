"""Streams through HAProxy and two gateways while the cluster changes beneath them."""

import asyncio
from collections.abc import Callable

from tests.integration.conftest import Cluster, chat, split, wait_until
from tests.integration.gateway.load import Answer, ask, client

N_STREAMS, N_TOKENS, TOKEN_S = 12, 120, 0.05
SLOW = {"engine": "echo", "n_slots": 64, "echo": {"token_s": TOKEN_S, "n_tokens": N_TOKENS}}
BODY = chat(
    "uno dos tres",
    model="okla-chat@stable",
    stream=True,
    temperature=1,
    stream_options={"include_usage": True},
)


def test_streams_outlive_a_deployment_of_gateway_and_model(cluster: Cluster) -> None:
    cluster.deploy(stable=SLOW)
    before = cluster.pids()
    swapped = SLOW | {"echo": {**SLOW["echo"], "tag": "new"}}  # type: ignore[dict-item]
    answers = asyncio.run(
        streams_during(
            cluster, lambda: cluster.deploy(gateway={"experiments": split(50)}, stable=swapped)
        )
    )
    assert_whole(answers)
    assert cluster.pids() == before


def test_streams_of_a_gateway_that_is_drained_are_finished(cluster: Cluster) -> None:
    cluster.deploy(stable=SLOW)
    config = cluster.config(stable=SLOW)
    config["applications"][0]["deployments"][0]["num_replicas"] = 1

    def drain() -> None:
        cluster.api.deploy(config)
        wait_until(lambda: len(cluster.readyz()["gateways"]) == 1, "one gateway takes requests")

    answers = asyncio.run(streams_during(cluster, drain))
    assert_whole(answers)
    wait_until(lambda: len(cluster.pids()["gateway"]) == 1, "the other one is gone", 60)


async def streams_during(cluster: Cluster, change: Callable[[], None]) -> list[Answer]:
    """Start streams, make a change once the engine works on all of them, return what came."""
    async with client() as http:
        running = [
            asyncio.create_task(ask(http, cluster.url, BODY, f"stream-{number}"))
            for number in range(N_STREAMS)
        ]
        await asyncio.to_thread(
            wait_until,
            lambda: cluster.total("carril_engine_running", variant="stable") == N_STREAMS,
            "all streams run",
        )
        await asyncio.to_thread(change)
        return await asyncio.gather(*running)


def assert_whole(answers: list[Answer]) -> None:
    """Every stream has all its tokens, its usage and its end, and no error."""
    for answer in answers:
        assert (answer.status, answer.error) == (200, "")
        *chunks, end = answer.events
        assert end == "[DONE]"
        assert all("error" not in chunk for chunk in chunks)
        tokens = [c for c in chunks if c["choices"] and c["choices"][0]["delta"].get("content")]
        assert len(tokens) == N_TOKENS
        assert chunks[-1]["usage"]["completion_tokens"] == N_TOKENS
