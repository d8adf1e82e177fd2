import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable

import pytest

from tests.benchmarks import sse
from tests.benchmarks.stream_load import Client, Planned, Result, failures, poisson

Handler = Callable[[dict, asyncio.StreamWriter], Awaitable[None]]


def event(content: str | None = None, **more: object) -> bytes:
    choice = {"delta": {"content": content}, "finish_reason": more.pop("finish_reason", None)}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def test_events_cut_by_the_network_are_joined() -> None:
    stream = event(None) + event("ho") + event("la", finish_reason="stop") + b"data: [DONE]\n\n"
    cuts = [stream[i : i + 7] for i in range(0, len(stream), 7)]
    answer = sse.streamed([(float(i), data) for i, data in enumerate(cuts)])
    assert (answer.text, answer.finish_reason, len(answer.text_at)) == ("hola", "stop", 2)
    assert answer.text_at[0] < answer.text_at[1]


def test_usage_and_errors_are_read_from_a_stream() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    answer = sse.streamed([(0.0, event("x")), (1.0, last)])
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (9, 2, 8)
    assert sse.streamed([(0.0, b'data: {"error": {"message": "no"}}\n')]).error is not None


def test_poisson_has_the_rate_and_is_repeatable() -> None:
    moments = poisson(4000, rate_per_s=5, seed=1)
    gaps = [b - a for a, b in zip([0.0, *moments], moments, strict=False)]
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)  # exponential: mean = deviation
    assert moments == poisson(4000, rate_per_s=5, seed=1)


async def serve(handler: Handler) -> tuple[str, asyncio.Server]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                assert line.startswith(b"POST /v1/chat/completions")
                length = 0
                while (line := await reader.readline()) != b"\r\n":
                    if line.startswith(b"Content-Length:"):
                        length = int(line.split(b":")[1])
                await handler(json.loads(await reader.readexactly(length)), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", server


async def stream(writer: asyncio.StreamWriter, pieces: list[bytes], pause_s: float = 0) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in [*pieces, b"data: [DONE]\n\n"]:
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
        await asyncio.sleep(pause_s)
    writer.write(b"0\r\n\r\n")


def words(n: int) -> list[bytes]:
    return [*(event(f"w{i} ") for i in range(n - 1)), event("end", finish_reason="stop")]


async def test_closed_loop_keeps_so_many_in_flight_and_the_order_of_results() -> None:
    running, most = 0, 0

    async def handler(body: dict, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await stream(writer, [event(body["q"], finish_reason="stop")], pause_s=0.002)
        running -= 1

    url, server = await serve(handler)
    async with server:
        planned = [Planned(body={"q": str(i)}) for i in range(20)]
        results = await Client(url).closed_loop(planned, clients=3)
    assert [result.text for result in results] == [str(i) for i in range(20)]
    assert most == 3
    assert failures(results) == []


async def test_gaps_are_those_of_the_server() -> None:
    async def handler(body: dict, writer: asyncio.StreamWriter) -> None:
        await stream(writer, words(4), pause_s=0.03)

    url, server = await serve(handler)
    async with server:
        (result,) = await Client(url).closed_loop([Planned(body={})], clients=1)
    assert result.text == "w0 w1 w2 end"
    assert len(result.gaps_s) == 3
    assert min(result.gaps_s) >= 0.025
    assert result.ttft_s is not None
    assert 0 < result.ttft_s < result.total_s


async def test_a_request_waits_for_text_of_those_before_it() -> None:
    async def handler(body: dict, writer: asyncio.StreamWriter) -> None:
        await stream(writer, words(body["n"]), pause_s=0.01)

    url, server = await serve(handler)
    async with server:
        planned = [
            Planned(body={"n": 6}),
            Planned(body={"n": 6}, at_s=0.02),
            Planned(body={"n": 2}, after_chunks=3),
        ]
        first, second, late = await Client(url).scheduled(planned)
    assert late.sent_s >= max(first.text_at_s[2], second.text_at_s[2])
    assert late.sent_s < second.text_at_s[-1]


async def test_refusals_and_broken_streams_are_failures() -> None:
    async def handler(body: dict, writer: asyncio.StreamWriter) -> None:
        if body["kind"] == "refuse":
            error = json.dumps({"error": {"message": "busy"}}).encode()
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n" % len(error) + error)
        elif body["kind"] == "break":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nda")
            await writer.drain()
            writer.close()
        else:
            await stream(writer, [event("no end")])

    url, server = await serve(handler)
    async with server:
        planned = [Planned(body={"kind": k}, label=k) for k in ("refuse", "break", "endless")]
        results = await Client(url).closed_loop(planned, clients=1)
    lines = failures(results)
    assert [line.split(":")[0] for line in lines] == ["refuse", "break", "endless"]
    assert "503" in lines[0]
    assert "busy" in lines[0]


async def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    async def handler(body: dict, writer: asyncio.StreamWriter) -> None:
        await stream(writer, words(2))
        writer.close()  # without having said so

    url, server = await serve(handler)
    async with server:
        results = await Client(url).closed_loop([Planned(body={})] * 3, clients=1)
    assert failures(results) == []


async def test_an_answer_in_one_piece_is_read_too() -> None:
    async def handler(body: dict, writer: asyncio.StreamWriter) -> None:
        message = {"message": {"content": "hola"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        text = json.dumps({"choices": [message], "usage": usage}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

    url, server = await serve(handler)
    async with server:
        (result,) = await Client(url).closed_loop([Planned(body={})], clients=1)
    assert (result.text, result.completion_tokens, result.ok) == ("hola", 2, True)


def test_nobody_there_is_a_failure() -> None:
    results = asyncio.run(
        Client("http://127.0.0.1:9").closed_loop([Planned(body={}, label="x")], clients=1)
    )
    assert results == [results[0]]
    assert isinstance(results[0], Result)
    assert failures(results)[0].startswith("x: status 0")
