"""Traces of a real cluster, as a collector gets them over OTLP."""

import os
import socket
from typing import Any

import httpx
import pytest

from tests.integration.conftest import CHAT_PATH, Cluster, chat, wait_until
from tests.integration.gateway.otlp import Collector, Received, collector

PARENT = "b7ad6b7169203331"
SERVER, CLIENT = 2, 3
SLOW: dict[str, Any] = {"echo": {"obey_prompt": True, "prefill_s": 0.05, "token_s": 0.01}}
WHOLE = {
    ("carril-gateway", f"POST {CHAT_PATH}"),
    ("carril-gateway", "commit exposure"),
    ("carril-model", "queue"),
    ("carril-model", "prefill"),
    ("carril-model", "decode"),
}


def ask(cluster: Cluster, text: str, *, trace: str | None = None, **changes: Any) -> httpx.Response:
    headers = {"x-session-id": os.urandom(8).hex()}
    if trace is not None:
        headers["traceparent"] = f"00-{trace}-{PARENT}-01"
    body = chat(text, **changes)
    return httpx.post(cluster.url + CHAT_PATH, json=body, headers=headers, timeout=30)


def whole_trace(found: Collector, trace: str, n: int) -> dict[str, Received]:
    wait_until(lambda: len(found.of_trace(trace)) >= n, f"{n} spans of a trace", 15)
    spans = found.of_trace(trace)
    assert len({span.name for span in spans}) == len(spans) == n
    return {span.name: span for span in spans}


def deploy(cluster: Cluster, endpoint: str | None, **models: Any) -> None:
    tracing = {"tracing": {"enabled": endpoint is not None, "endpoint": endpoint}}
    cluster.deploy(gateway=tracing, stable=models | tracing, candidate=models | tracing)


def check_hierarchy(spans: dict[str, Received], variant: str) -> None:
    request, call = spans[f"POST {CHAT_PATH}"], spans[f"chat {variant}"]
    generate = spans[f"generate okla-{variant}"]
    assert (request.kind, call.kind, generate.kind) == (SERVER, CLIENT, SERVER)
    assert request.parent_id == PARENT
    assert call.parent_id == request.span_id
    assert generate.parent_id == call.span_id
    # Two processes, one clock: what a span calls happens while it lasts.
    for outer, inner in ((request, call), (call, generate)):
        assert outer.start_ns <= inner.start_ns <= outer.end_ns + 1_000_000


@pytest.mark.parametrize("stream", [False, True])
def test_one_trace_from_the_client_to_the_engine(cluster: Cluster, stream: bool) -> None:
    trace = os.urandom(16).hex()
    with collector() as found:
        deploy(cluster, found.endpoint, **SLOW)
        before = cluster.pids()
        swaps = cluster.total("carril_model_swaps_total")
        # Never asked before, or a cache or a running generation would answer.
        answer = ask(cluster, f"palabra-secreta {trace} aquí", trace=trace, stream=stream)
        assert answer.status_code == 200, answer.text
        variant = answer.headers["x-carril-variant"]
        spans = whole_trace(found, trace, 7)
        names = {(span.service, span.name) for span in spans.values()}
        assert names == WHOLE | {
            ("carril-gateway", f"chat {variant}"),
            ("carril-model", f"generate okla-{variant}"),
        }
        check_hierarchy(spans, variant)
        request, generate = spans[f"POST {CHAT_PATH}"], spans[f"generate okla-{variant}"]
        assert answer.headers["traceresponse"] == f"00-{trace}-{request.span_id}-03"
        assert {spans[name].parent_id for name in ("queue", "prefill", "decode")} == {
            generate.span_id
        }
        assert spans["prefill"].end_ns - spans["prefill"].start_ns >= 45_000_000
        assert request.attributes["http.response.status_code"] == 200
        assert request.attributes["gen_ai.usage.output_tokens"] == 3
        assert request.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert request.attributes["carril.exposure"] == "enrolled"
        assert request.attributes["carril.variant"] == variant
        assert ("first_token" in request.events) == stream
        assert b"secreta" not in found.raw
        assert cluster.total("carril_trace_spans_total") >= 7
        # Switched off again: nothing is loaded, nobody is replaced, and there are no traces.
        deploy(cluster, None, **SLOW)
        assert "traceresponse" not in ask(cluster, "klk", trace=os.urandom(16).hex()).headers
        assert cluster.pids() == before
        assert cluster.total("carril_model_swaps_total") == swaps
    assert f'"trace_id":"{trace}"' in cluster.logs()


def test_errors_are_on_the_spans_they_happened_in(cluster: Cluster) -> None:
    refused, failed, cut = (os.urandom(16).hex() for _ in range(3))
    late = {"echo": {**SLOW["echo"], "fail_rate": 1, "fail_after_tokens": 2}, "warmup": False}
    with collector() as found:
        deploy(cluster, found.endpoint, **late)
        assert ask(cluster, "klk", trace=refused, max_tokens=-1).status_code == 400
        assert ask(cluster, "!fail", trace=failed).status_code == 500
        broken = ask(cluster, "uno dos tres cuatro", trace=cut, stream=True)
        assert broken.status_code == 200
        assert "engine_failed" in broken.text
        [request] = whole_trace(found, refused, 1).values()
        assert request.attributes["http.response.status_code"] == 400
        assert request.attributes["error.type"] == "invalid_value"
        assert not request.is_error
        for trace, status in ((failed, 500), (cut, 200)):
            spans = whole_trace(found, trace, 4)
            del spans["commit exposure"]
            variant = spans[f"POST {CHAT_PATH}"].attributes["carril.variant"]
            check_hierarchy(spans, variant)
            assert {span.attributes["error.type"] for span in spans.values()} == {"engine_failed"}
            assert all(span.is_error for span in spans.values())
            request = spans[f"POST {CHAT_PATH}"]
            assert request.attributes["http.response.status_code"] == status


def test_collector_that_is_down_costs_traces_only(cluster: Cluster) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        deploy(cluster, f"http://127.0.0.1:{probe.getsockname()[1]}")
    answers = [ask(cluster, f"pregunta {n}") for n in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert all("traceresponse" in answer.headers for answer in answers)
    wait_until(
        lambda: cluster.total("carril_trace_spans_dropped_total", reason="not_delivered") >= 60,
        "spans counted as lost",
        40,
    )
    assert cluster.readyz()["status"] == "ready"
