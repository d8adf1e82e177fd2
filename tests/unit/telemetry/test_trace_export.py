"""Sending spans: nothing that a collector does is felt by who ends a span."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from serve_app.config import (
    TracingConfig,
    load_yaml,
    parse_gateway_config,
    parse_model_config,
)
from serve_app.errors import ConfigError
from serve_app.telemetry.metrics import trace_counters
from serve_app.telemetry.trace_export import otlp_exporter
from serve_app.telemetry.tracing import Tracing
from tests.unit.gateway.builders import raw_config

FROM_CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector(SpanExporter):
    """Takes, refuses, raises or hangs, as told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.takes = True
        self.fault: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.open.wait()
        if self.fault is not None:
            raise self.fault
        if not self.takes:
            return SpanExportResult.FAILURE
        self.sizes.append(len(spans))
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.open.set()


class Traced:
    """Tracing with a collector, and what was counted."""

    def __init__(self, **config: object) -> None:
        self.registry = CollectorRegistry()
        self.collector = Collector()
        self.tracing = Tracing(
            "test", "r1", trace_counters(self.registry), exporter=lambda _: self.collector
        )
        self.tracing.configure(TracingConfig(enabled=True, **config))  # type: ignore[arg-type]

    def end(self, name: str) -> None:
        self.tracing.receive(name, FROM_CLIENT, "").end()

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    @property
    def exported(self) -> float:
        return self.count("carril_trace_spans_total")

    def dropped(self, reason: str) -> float:
        return self.count("carril_trace_spans_dropped_total", reason=reason)


def wait_until(true: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_spans_are_sent_in_batches_and_in_order() -> None:
    traced = Traced()
    names = [f"span {n}" for n in range(200)]
    for name in names:
        traced.end(name)
    traced.tracing.close(5)
    assert traced.collector.names == names
    assert len(traced.collector.sizes) <= 5
    assert traced.exported == 200


def test_they_are_sent_soon_without_being_asked() -> None:
    traced = Traced()
    traced.end("one")
    wait_until(lambda: traced.collector.names == ["one"])
    traced.end("two")
    wait_until(lambda: traced.collector.names == ["one", "two"])
    traced.tracing.close(5)


def test_what_does_not_fit_is_dropped_at_once_and_counted() -> None:
    traced = Traced(max_queued=64)
    traced.collector.open.clear()
    started = time.monotonic()
    for n in range(1000):
        traced.end(f"span {n}")
    assert time.monotonic() - started < 1
    traced.collector.open.set()
    traced.tracing.close(5)
    kept = len(traced.collector.names)
    assert 64 <= kept <= 200
    assert traced.dropped("queue_full") == 1000 - kept
    assert traced.exported == kept


@pytest.mark.parametrize("fault", [None, OSError("no route to host")], ids=["refuses", "raises"])
def test_collector_that_takes_nothing_costs_its_spans_only(fault: Exception | None) -> None:
    traced = Traced()
    traced.collector.takes, traced.collector.fault = False, fault
    for n in range(10):
        traced.end(f"span {n}")
    wait_until(lambda: traced.dropped("not_delivered") == 10)
    traced.collector.takes, traced.collector.fault = True, None
    traced.end("after")
    traced.tracing.close(5)
    assert traced.collector.names == ["after"]


def test_loss_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    traced = Traced()
    traced.collector.takes = False
    with caplog.at_level("INFO", logger="serve_app.telemetry.trace_export"):
        for n in range(3):
            traced.end(f"span {n}")
            wait_until(lambda n=n: traced.dropped("not_delivered") == n + 1)
        traced.collector.takes = True
        traced.end("after")
        traced.tracing.close(5)
    assert [record.message for record in caplog.records] == [
        "traces are being lost",
        "traces are delivered again",
    ]


def test_end_does_not_wait_for_a_collector_that_hangs() -> None:
    traced = Traced()
    traced.collector.open.clear()
    for n in range(100):
        traced.end(f"span {n}")
    started = time.monotonic()
    traced.tracing.close(0.2)
    assert time.monotonic() - started < 1
    assert traced.dropped("stopped") >= 36
    assert not traced.tracing.enabled


def test_exporter_that_cannot_be_made_ends_nothing() -> None:
    registry = CollectorRegistry()

    def broken(_: TracingConfig) -> SpanExporter:
        raise ValueError("no such compression")

    tracing = Tracing("test", "r1", trace_counters(registry), exporter=broken)
    tracing.configure(TracingConfig(enabled=True))
    for _ in range(3):
        tracing.receive("span", None, "").end()
    tracing.close(5)
    assert registry.get_sample_value("carril_trace_spans_dropped_total", {"reason": "stopped"}) == 3


def test_span_under_way_takes_the_new_way() -> None:
    traced = Traced()
    span = traced.tracing.receive("moved", None, "")
    first = traced.collector
    traced.collector = Collector()
    traced.tracing.configure(TracingConfig(enabled=True, sample=0.5))
    span.end()
    left = traced.tracing.receive("left", FROM_CLIENT, "")
    traced.tracing.close(5)
    left.end()
    assert (first.names, traced.collector.names) == ([], ["moved"])
    assert traced.dropped("stopped") == 1


def test_no_span_is_lost_uncounted_while_tracing_is_switched() -> None:
    traced = Traced(max_queued=10**6)
    done = threading.Event()
    ended = 0

    def work() -> None:
        nonlocal ended
        while not done.is_set() and ended < 5_000:
            traced.end("span")
            ended += 1

    worker = threading.Thread(target=work)
    worker.start()
    for number in range(20):
        sample = 1 - number / 1000  # another configuration, another thread that sends
        traced.tracing.configure(TracingConfig(enabled=True, sample=sample, max_queued=10**6))
    done.set()
    worker.join()
    traced.tracing.close(30)
    wait_until(lambda: traced.exported + traced.dropped("stopped") == ended, 30)


def test_address_is_completed_and_secrets_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://from-environment:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
    own = otlp_exporter(TracingConfig(enabled=True, endpoint="http://collector:4318/"))
    standard = otlp_exporter(TracingConfig(enabled=True))
    assert own._endpoint == "http://collector:4318/v1/traces"  # type: ignore[attr-defined]
    assert standard._endpoint == "http://from-environment:4318/v1/traces"  # type: ignore[attr-defined]
    assert own._client._headers["api-key"] == "secret"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("collector:4318", "write http://host:4318"),
        ("grpc://collector:4317", "write http://host:4318"),
        ("http://collector:port", "write http://host:4318"),
        ("http://collector:4318?token=secreto", "write http://host:4318"),
        ("https://user:secreto@collector", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_address_that_cannot_be_used_is_refused_without_repeating_it(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"tracing\.endpoint") as caught:
        parse_gateway_config(raw_config(tracing={"enabled": True, "endpoint": url}))
    assert says in str(caught.value)
    assert "secreto" not in str(caught.value)


def test_off_there_is_no_thread_and_no_exporter() -> None:
    program = (
        "import sys, threading, serve_app.gateway.spans, serve_app.model.spans\n"
        "from prometheus_client import CollectorRegistry\n"
        "from serve_app.config import TracingConfig\n"
        "from serve_app.telemetry.metrics import trace_counters\n"
        "from serve_app.telemetry.tracing import Tracing\n"
        "tracing = Tracing('x', 'y', trace_counters(CollectorRegistry()))\n"
        "tracing.configure(TracingConfig())\n"
        "tracing.receive('x', None, '').end()\n"
        "assert threading.active_count() == 1\n"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry.exporter.otlp')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_configuration_of_the_readme_is_one() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    [line] = [line for line in readme.splitlines() if line.startswith("tracing: {")]
    written = load_yaml(line)
    assert isinstance(written, dict)
    gateway = parse_gateway_config(raw_config(**written))
    model = parse_model_config({"engine": "echo", **written})
    assert gateway.tracing == model.tracing
    assert gateway.tracing.enabled
    assert 0 < gateway.tracing.sample < 1
