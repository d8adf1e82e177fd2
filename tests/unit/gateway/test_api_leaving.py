"""Clients that leave: everything they held is free again."""

import asyncio

import pytest

from tests.unit.gateway.builders import CHAT
from tests.unit.gateway.over_http import Connection, MakeGateway, at_rest, wait_until


@pytest.mark.parametrize("n_messages", [0, 1, 2, 3, 4])
async def test_client_that_leaves_a_stream_frees_everything(
    make_gateway: MakeGateway, n_messages: int
) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.01, "n_tokens": 1000}}})
    connection = Connection(gateway, CHAT | {"stream": True, "max_tokens": 1000})
    task = asyncio.create_task(connection.run())
    if n_messages == 0:
        connection.left.set()
    await wait_until(lambda: len(connection.sent) >= n_messages)
    connection.left.set()
    await asyncio.wait_for(task, 2)
    await wait_until(lambda: at_rest(gateway))
    await gateway.events.flush()
    assert [outcome.status for outcome in gateway.outcomes()] == ["aborted"]


async def test_cancelled_request_frees_everything(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"prefill_s": 30}}})
    task = asyncio.create_task(Connection(gateway, dict(CHAT)).run())
    await wait_until(lambda: gateway.variants["stable"].engine.stats().running == 1)
    task.cancel()
    await asyncio.wait([task])
    await wait_until(lambda: at_rest(gateway))
    await gateway.events.flush()
    assert [outcome.status for outcome in gateway.outcomes()] == ["aborted"]


async def test_client_that_leaves_does_not_end_the_answer_of_those_who_joined(
    make_gateway: MakeGateway,
) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.01}}})
    body = CHAT | {"stream": True}
    first, second = Connection(gateway, body), Connection(gateway, body)
    tasks = [asyncio.create_task(connection.run()) for connection in (first, second)]
    await wait_until(lambda: len(first.sent) >= 2 and len(second.sent) >= 2)
    first.left.set()
    await asyncio.wait(tasks)
    assert second.sent[-2]["body"].endswith(b"[DONE]\n\n")
    assert gateway.n_generations() == 1
