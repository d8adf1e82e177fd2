"""Every metric of carril, declared once.

The twelve `okla_llm_*` names are a contract with existing dashboards and keep their units; all
others are `carril_*` in base units. Label values come from closed sets: variants, served models,
error codes, cache states. Each process has a registry of its own; `merge` joins them.
"""

import functools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serve_app.engines.protocol import PRIORITIES, EngineStats
from serve_app.model.calls import ModelState

disable_created_metrics()  # type: ignore[no-untyped-call]

DURATION_MS_BUCKETS = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000)
"""The 11 buckets of `okla_llm_response_duration_ms`."""
TTFT_S_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WAKE_S_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
OVERHEAD_S_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)


class TraceCounters(NamedTuple):
    """What became of the spans of one process."""

    exported: Counter
    dropped: Counter


def trace_counters(registry: CollectorRegistry) -> TraceCounters:
    """Declare the series of a process that may record traces."""
    return TraceCounters(
        Counter("carril_trace_spans", "Spans that a collector took.", registry=registry),
        Counter(
            "carril_trace_spans_dropped",
            "Spans that nobody will see, by why: queue_full, not_delivered, stopped.",
            ("reason",),
            registry=registry,
        ),
    )


class GatewayMetrics:
    """Series of one gateway replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        variant = ("variant",)
        self._started = time.monotonic()
        self.requests = Counter("okla_llm_requests", "Requests received.", variant, registry=r)
        self.successes = Counter(
            "okla_llm_requests_success", "Requests answered.", variant, registry=r
        )
        self.errors = Counter(
            "okla_llm_requests_error",
            "Requests that ended with an error, by its code.",
            ("variant", "error_type"),
            registry=r,
        )
        self.duration_ms = Histogram(
            "okla_llm_response_duration_ms",
            "Milliseconds from receipt to the last byte, without cached and joined answers.",
            variant,
            buckets=DURATION_MS_BUCKETS,
            registry=r,
        )
        self.tokens = Counter(
            "okla_llm_tokens", "Prompt and completion tokens.", variant, registry=r
        )
        self.prompt_tokens = Counter(
            "okla_llm_prompt_tokens", "Prompt tokens.", variant, registry=r
        )
        self.completion_tokens = Counter(
            "okla_llm_completion_tokens", "Completion tokens.", variant, registry=r
        )
        self.active = Gauge(
            "okla_llm_active_requests", "Requests in progress.", variant, registry=r
        )
        self.avg_response_ms = Gauge(
            "okla_llm_avg_response_time_ms",
            "Mean of okla_llm_response_duration_ms since the start of the replica.",
            variant,
            registry=r,
        )
        self.uptime = Gauge(
            "okla_llm_uptime_seconds", "Seconds since the replica started.", variant, registry=r
        )
        self.ttft_s = Histogram(
            "carril_ttft_seconds",
            "Seconds from receipt to the first token.",
            variant,
            buckets=TTFT_S_BUCKETS,
            registry=r,
        )
        self.overhead_s = Histogram(
            "carril_overhead_seconds",
            "Seconds spent in the gateway before the model was called.",
            buckets=OVERHEAD_S_BUCKETS,
            registry=r,
        )
        self.cache = Counter(
            "carril_cache_events",
            "Requests by what the response cache did: hit, miss, join, bypass.",
            ("variant", "result"),
            registry=r,
        )
        self.cache_entries = Gauge("carril_cache_entries", "Answers in the cache.", registry=r)
        self.cache_bytes = Gauge("carril_cache_bytes", "Bytes of answers in the cache.", registry=r)
        self.cache_tier_errors = Counter(
            "carril_cache_tier_errors", "Failed calls to the shared cache tier.", registry=r
        )
        self.exposures = Counter(
            "carril_exposures",
            "Requests by exposure: enrolled, none, pinned, override, holdout.",
            ("experiment", "variant", "exposure"),
            registry=r,
        )
        self.assignments = Counter(
            "carril_assignments",
            "Requests that experiments had a say in, by why they got their variant.",
            ("served_model", "reason"),
            registry=r,
        )
        self.sticky = Counter(
            "carril_sticky",
            "Requests of adaptive experiments by where the variant came from: assigned (new, or as "
            "the split of now has it), kept (the split of now has another), unknown (the store "
            "could not say), removed (the kept one has left the experiment).",
            ("experiment", "result"),
            registry=r,
        )
        self.shadow = Counter(
            "carril_shadow_requests",
            "Copies for a shadow by result: sent, answered, failed, dropped.",
            ("shadow", "result"),
            registry=r,
        )
        self.shadow_in_flight = Gauge(
            "carril_shadow_in_flight", "Copies in progress.", ("shadow",), registry=r
        )
        self.retries = Counter(
            "carril_retries", "Requests repeated on another replica.", variant, registry=r
        )
        self.retries_refused = Counter(
            "carril_retries_refused", "Repeats that the retry budget forbade.", variant, registry=r
        )
        self.events_spooled = Counter(
            "carril_events_spooled", "Events that went to the spool file.", registry=r
        )
        self.events_lost = Counter(
            "carril_events_lost", "Events that could not be stored anywhere.", registry=r
        )
        self.events_unshipped = Gauge(
            "carril_events_unshipped",
            "Events of this node that the central database does not have yet.",
            registry=r,
        )
        self.refused = Counter(
            "carril_requests_refused",
            "Requests refused before a variant was chosen, by error code.",
            ("code",),
            registry=r,
        )
        self.feedback = Counter(
            "carril_feedback",
            "Feedback by metric and result: accepted, replayed, refused, unavailable. The metric "
            "is empty where a refused one names none that is declared.",
            ("metric", "result"),
            registry=r,
        )
        self.transcripts = Counter(
            "carril_transcripts",
            "Answers eligible for text capture by result: captured, too_long, dropped.",
            ("result",),
            registry=r,
        )
        self.config_refused = Counter(
            "carril_config_refused", "Configurations that were refused.", registry=r
        )
        self.config_info = Gauge(
            "carril_config_info", "1 for the configuration in force.", ("hash",), registry=r
        )
        self.traces = trace_counters(r)
        # What every request counts. A look at the labels costs more than the counting, so each
        # series is looked up once. Not for metrics that are cleared: their series go.
        for metric in (
            self.requests,
            self.successes,
            self.duration_ms,
            self.tokens,
            self.prompt_tokens,
            self.completion_tokens,
            self.active,
            self.ttft_s,
            self.cache,
            self.exposures,
            self.assignments,
        ):
            setattr(metric, "labels", functools.cache(metric.labels))  # noqa: B010 (for mypy)

    def refresh(self, variants: list[str]) -> None:
        """Update series that are derived at scrape time."""
        for variant in variants:
            self.uptime.labels(variant).set(time.monotonic() - self._started)
            total = count = 0.0
            for sample in self.duration_ms.labels(variant)._child_samples():
                if sample.name == "_sum":
                    total = sample.value
                elif sample.name == "_count":
                    count = sample.value
            self.avg_response_ms.labels(variant).set(total / count if count else 0.0)


class ModelMetrics:
    """Series of one model replica. The gateway adds the `variant` label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.loaded = Gauge("okla_llm_model_loaded", "1 if a model serves.", registry=r)
        self.info = Gauge(
            "okla_llm_model_info",
            "1 for the model that serves.",
            ("model", "sha256", "engine", "engine_version"),
            registry=r,
        )
        self.load_failures = Counter(
            "carril_model_load_failures", "Model loads that failed.", registry=r
        )
        self.swaps = Counter("carril_model_swaps", "Models put into service.", registry=r)
        self.config_refused = Counter(
            "carril_model_config_refused", "Configurations that were refused.", registry=r
        )
        self.wanted_served = Gauge(
            "carril_model_config_current",
            "1 if the wanted configuration serves, 0 while another one does.",
            registry=r,
        )
        self.idle = Gauge(
            "carril_model_idle", "1 while the model is unloaded for want of requests.", registry=r
        )
        self.unloads = Counter(
            "carril_model_unloads", "Models unloaded for want of requests.", registry=r
        )
        self.wake_s = Histogram(
            "carril_model_wake_seconds",
            "Seconds that requests waited for an unloaded model.",
            buckets=WAKE_S_BUCKETS,
            registry=r,
        )
        self.service_s = Gauge(
            "carril_engine_service_seconds",
            "Seconds that a request held a slot, over about the last minute.",
            registry=r,
        )
        self.running = Gauge("carril_engine_running", "Requests being decoded.", registry=r)
        self.waiting = Gauge("carril_engine_waiting", "Requests waiting for a slot.", registry=r)
        self.waiting_by_priority = Gauge(
            "carril_engine_waiting_by_priority",
            "Requests in the engine's line, by class.",
            ("priority",),
            registry=r,
        )
        self.kv_used = Gauge("carril_engine_kv_tokens", "KV cells in use.", registry=r)
        self.kv_capacity = Gauge("carril_engine_kv_capacity_tokens", "KV cells.", registry=r)
        self.heartbeat_age = Gauge(
            "carril_engine_heartbeat_age_seconds",
            "Seconds since the engine loop turned.",
            registry=r,
        )
        self.traces = trace_counters(r)
        self._engine = _EngineTotals()
        r.register(self._engine)

    def set_engine(self, stats: EngineStats, heartbeat_age_s: float) -> None:
        """Copy an engine's counters."""
        self.running.set(stats.running)
        self.waiting.set(stats.waiting)
        for priority in PRIORITIES:
            n_waiting = stats.waiting_by_priority.get(priority, 0)
            self.waiting_by_priority.labels(priority).set(n_waiting)
        self.kv_used.set(stats.kv_tokens_used)
        self.kv_capacity.set(stats.kv_tokens_capacity)
        self.heartbeat_age.set(heartbeat_age_s)
        self._engine.stats = stats

    def idle_engine(self) -> EngineStats:
        """Return the last counters with nothing in progress, for a replica without a model."""
        return replace(
            self._engine.stats,
            running=0,
            waiting=0,
            waiting_by_priority={},
            kv_tokens_used=0,
            kv_tokens_capacity=0,
        )

    def set_state(self, state: ModelState) -> None:
        """Copy the state that `/readyz` shows."""
        identity = state.identity
        self.loaded.set(1 if state.state == "ready" else 0)
        self.idle.set(1 if state.state == "idle" else 0)
        self.wanted_served.set(
            1 if identity and identity.config_hash == state.config_hash and not state.error else 0
        )
        self.info.clear()
        if identity:
            self.info.labels(
                identity.model_name, identity.short, identity.engine, identity.engine_version
            ).set(1)


class _EngineTotals(Collector):
    """Counters that the engine keeps itself."""

    _TEXTS: ClassVar = {
        "prompt_tokens_total": "Prompt tokens processed or reused.",
        "cached_tokens_total": "Prompt tokens whose KV was reused.",
        "completion_tokens_total": "Tokens generated.",
        "steps_total": "Decode calls.",
        "step_rows_total": "Rows over all decode calls.",
        "cancelled_total": "Requests cancelled.",
        "evicted_tokens_total": "Tokens kept for later requests and given up for room.",
        "restored_tokens_total": "Tokens whose KV came from disk at load.",
        "preempted_total": "Slots taken back, for a higher class or for want of KV memory.",
        "refused_late_total": "Requests refused because they would have missed their deadline.",
        "forced_tokens_total": "Tokens that the JSON schema left no choice about.",
    }
    _BY_SOURCE: ClassVar = {
        "guessed_tokens_total": ("guessed_by_source", "Tokens computed on suspicion."),
        "right_guesses_total": ("right_by_source", "Tokens computed on suspicion that came true."),
    }

    def __init__(self) -> None:
        self.stats = EngineStats()

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, text in self._TEXTS.items():
            yield CounterMetricFamily(
                f"carril_engine_{name}", text, value=getattr(self.stats, name)
            )
        for name, (field, text) in self._BY_SOURCE.items():
            family = CounterMetricFamily(f"carril_engine_{name}", text, labels=["source"])
            for source, value in getattr(self.stats, field).items():
                family.add_metric([source], value)
            yield family
