"""How answers leave: what the client waits for, and what comes in one write."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from experiments.events.records import Event, Kept
from tests.unit.gateway.builders import CHAT, Gateway
from tests.unit.gateway.over_http import CHAT_PATH, Connection, MakeGateway, at_rest, unit_of

STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}

ENGINE_S, STORE_S = 0.2, 0.1


class Watched(Connection):
    """Notes what was counted when each message left; may fail to take one."""

    def __init__(self, gateway: Gateway, body: dict[str, Any], *, refuses: str = "") -> None:
        super().__init__(gateway, body)
        self.counted: list[float] = []
        self._refuses = refuses

    async def _send(self, message: Any) -> None:
        successes = self._gateway.metrics.successes.labels("stable")
        self.counted.append(successes._value.get())
        if message["type"] == self._refuses:
            raise OSError("the client is gone")
        await super()._send(message)


def writes(connection: Connection) -> list[bytes]:
    return [
        message["body"]
        for message in connection.sent
        if message["type"] == "http.response.body" and message["body"]
    ]


async def test_answer_is_out_before_it_is_accounted_for(gateway: Gateway) -> None:
    connection = Watched(gateway, dict(CHAT))
    await connection.run()
    assert connection.counted == [0, 0]
    assert gateway.metrics.successes.labels("stable")._value.get() == 1
    await gateway.events.flush()
    assert [outcome.status for outcome in gateway.outcomes()] == ["ok"]


async def test_answer_that_nobody_takes_is_accounted_for_once(gateway: Gateway) -> None:
    with pytest.raises(OSError, match="gone"):
        await Watched(gateway, dict(CHAT), refuses="http.response.start").run()
    await gateway.events.flush()
    assert [outcome.status for outcome in gateway.outcomes()] == ["ok"]
    assert at_rest(gateway)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_overhead_is_the_total_without_the_engine(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"prefill_s": ENGINE_S}}})
    store = gateway._append

    async def slow_store(events: Sequence[Event]) -> Sequence[Kept]:
        await asyncio.sleep(STORE_S)
        return await store(events)

    monkeypatch.setattr(gateway.events, "_append", slow_store)
    body = CHAT | {"stream": stream, "max_tokens": 1}
    async with gateway.client(**{"x-session-id": unit_of(gateway, "stable")}) as client:
        started = time.monotonic()
        answer = await client.post(CHAT_PATH, json=body)
        total_s = time.monotonic() - started
    overhead_s = float(answer.headers["x-carril-overhead-ms"]) / 1000
    # Making the exposure durable is ours, prefill is the engine's.
    assert overhead_s >= STORE_S
    assert ENGINE_S <= total_s - overhead_s < ENGINE_S + STORE_S


async def test_first_write_of_a_stream_holds_the_first_token(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.02, "n_tokens": 3}}})
    connection = Connection(gateway, dict(STREAM))
    await connection.run()
    first, second, third, end = writes(connection)
    assert first.count(b"data: ") == 2
    assert b'"role":"assistant"' in first
    assert b'"content":"klk,"' in first
    assert second.count(b"data: ") == third.count(b"data: ") == 1
    assert end.count(b"data: ") == 3
    assert b'"finish_reason":"stop"' in end
    assert b'"total_tokens"' in end
    assert end.endswith(b"data: [DONE]\n\n")


async def test_tokens_are_written_as_they_come(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines={"stable": {"echo": {"token_s": 0.05, "n_tokens": 4}}})
    connection = Connection(gateway, dict(STREAM))
    task = asyncio.create_task(connection.run())
    seen: list[int] = []
    while not task.done():
        await asyncio.sleep(0.01)
        if (n := len(writes(connection))) not in seen:
            seen.append(n)
    # The last token comes with the end of the answer, so two writes may look like one.
    assert set(seen) >= {1, 2, 3}
