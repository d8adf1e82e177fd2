"""The spans of a model replica: children of the call, with the engine's time inside."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serve_app.errors import EngineFailed
from serve_app.model.calls import ModelCall
from serve_app.model.replica import ModelReplica
from serve_app.telemetry.trace_context import TraceContext
from serve_app.telemetry.tracing import Tracing
from tests.unit.model.test_replica import call

CALLER = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
SLOW: dict[str, Any] = {
    "engine": "echo",
    "n_slots": 1,
    "warmup": False,
    "echo": {"prefill_s": 0.03, "token_s": 0.01, "n_tokens": 5, "obey_prompt": True},
    "tracing": {"enabled": True},
}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter
) -> Iterator[ModelReplica]:
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"), app_name="okla-stable")
    monkeypatch.setattr("serve_app.model.replica.serve.get_replica_context", lambda: context)
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    replica = ModelReplica()
    replica._tracing = Tracing(
        "carril-model", "r1", replica._metrics.traces, exporter=lambda _: exporter
    )
    yield replica
    for logger in (logging.getLogger(name) for name in ("serve_app", "experiments")):
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def traced(text: str = "hola", trace: TraceContext | None = CALLER) -> ModelCall:
    plain = call(text)
    return ModelCall(request=plain.request, flight_key=plain.flight_key, trace=trace)


def sent(replica: ModelReplica, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    replica._tracing.close(5)
    return list(exporter.get_finished_spans())


def named(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    [span] = [span for span in spans if span.name == name]
    return span


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


async def test_engines_time_is_inside_the_call(
    replica: ModelReplica, exporter: InMemorySpanExporter
) -> None:
    await replica.reconfigure(SLOW)
    await asyncio.gather(replica.generate(traced("una")), replica.generate(traced("dos", None)))
    found = sent(replica, exporter)
    assert sorted(span.name for span in found) == [
        "decode",
        "generate okla-stable",
        "prefill",
        "queue",
    ]
    request = named(found, "generate okla-stable")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert request.parent.is_remote
    assert f"{request.parent.span_id:016x}" == CALLER.span_id
    assert request.context is not None
    parts = [named(found, name) for name in ("queue", "prefill", "decode")]
    assert {part.parent.span_id for part in parts if part.parent} == {request.context.span_id}
    assert seconds(parts[1]) >= 0.03
    assert seconds(parts[2]) >= 0.035
    assert request.start_time is not None
    assert request.end_time is not None
    ends = [request.start_time]
    for part in parts:  # one after another, inside the request
        assert part.start_time is not None
        assert part.end_time is not None
        assert part.start_time >= ends[-1] - 1000
        ends.append(part.end_time)
    assert ends[-1] <= request.end_time
    said = dict(request.attributes or {})
    assert said["gen_ai.response.model"] == "echo"
    assert said["gen_ai.usage.output_tokens"] == 5
    assert said["carril.engine"] == "echo"
    assert [event.name for event in request.events] == ["model_ready", "first_token"]


async def test_waiting_for_a_slot_is_told_apart(
    replica: ModelReplica, exporter: InMemorySpanExporter
) -> None:
    await replica.reconfigure(SLOW)
    before = asyncio.create_task(replica.generate(traced("una", None)))
    await asyncio.sleep(0.005)
    await asyncio.gather(before, replica.generate(traced("dos")))
    assert seconds(named(sent(replica, exporter), "queue")) >= 0.05


@pytest.mark.parametrize(
    "trace",
    [
        pytest.param(None, id="caller without trace"),
        pytest.param(CALLER._replace(sampled=False), id="not sampled"),
    ],
)
async def test_only_what_the_caller_records_is_recorded(
    replica: ModelReplica, exporter: InMemorySpanExporter, trace: TraceContext | None
) -> None:
    await replica.reconfigure(SLOW)
    await replica.generate(traced("una", trace))
    assert sent(replica, exporter) == []


async def test_failure_is_on_the_span(
    replica: ModelReplica, exporter: InMemorySpanExporter
) -> None:
    await replica.reconfigure(SLOW)
    with pytest.raises(EngineFailed):
        await replica.generate(traced("!fail"))
    [span] = sent(replica, exporter)
    assert (span.attributes or {})["error.type"] == "engine_failed"
    assert span.status.status_code is StatusCode.ERROR


async def test_switching_loads_nothing(replica: ModelReplica) -> None:
    off = SLOW | {"tracing": {"enabled": False}}
    await replica.reconfigure(off)
    before = replica._keeper.slot.current
    await replica.reconfigure(SLOW)
    assert replica._keeper.slot.current is before
    assert replica._tracing.enabled
    state = await replica.state()
    assert state.identity is not None
    assert state.identity.config_hash == state.config_hash
    await replica.reconfigure(off)
    assert not replica._tracing.enabled
