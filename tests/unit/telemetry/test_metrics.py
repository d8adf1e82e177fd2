"""The metrics: the names that dashboards rely on, and one page for all replicas."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.engines.protocol import EngineStats
from serve_app.model.calls import ModelState
from serve_app.telemetry.merge import relabel, render, snapshot
from serve_app.telemetry.metrics import DURATION_MS_BUCKETS, GatewayMetrics, ModelMetrics
from tests.unit.gateway.builders import identity

OKLA = {
    "okla_llm_requests_total": "counter",
    "okla_llm_requests_success_total": "counter",
    "okla_llm_requests_error_total": "counter",
    "okla_llm_response_duration_ms": "histogram",
    "okla_llm_tokens_total": "counter",
    "okla_llm_prompt_tokens_total": "counter",
    "okla_llm_completion_tokens_total": "counter",
    "okla_llm_model_loaded": "gauge",
    "okla_llm_uptime_seconds": "gauge",
    "okla_llm_active_requests": "gauge",
    "okla_llm_avg_response_time_ms": "gauge",
    "okla_llm_model_info": "gauge",
}


def used_gateway() -> GatewayMetrics:
    metrics = GatewayMetrics()
    for variant in ("stable", "candidate"):
        metrics.requests.labels(variant).inc()
        metrics.successes.labels(variant).inc()
        metrics.errors.labels(variant, "overloaded").inc()
        metrics.duration_ms.labels(variant).observe(30)
        metrics.duration_ms.labels(variant).observe(90)
        for counter in (metrics.tokens, metrics.prompt_tokens, metrics.completion_tokens):
            counter.labels(variant).inc(5)
        metrics.active.labels(variant).inc()
    metrics.refresh(["stable", "candidate"])
    return metrics


def model_metrics(replica: str, running: int) -> ModelMetrics:
    metrics = ModelMetrics()
    metrics.set_state(
        ModelState(
            replica=replica,
            state="ready",
            identity=identity(replica=replica),
            config_hash="0123456789ab",
            error=None,
        )
    )
    metrics.set_engine(EngineStats(running=running, completion_tokens_total=7), 0.25)
    return metrics


def page() -> bytes:
    gateways = [snapshot(used_gateway().registry, {"replica": name}) for name in ("g1", "g2")]
    models = [
        relabel(snapshot(model_metrics(name, n).registry, {"replica": name}), {"variant": variant})
        for n, (name, variant) in enumerate([("m1", "stable"), ("m2", "stable"), ("m3", "x")])
    ]
    return render([*gateways, *models])


@pytest.fixture(scope="module")
def families() -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(page().decode())}


@pytest.mark.parametrize(("name", "kind"), OKLA.items())
def test_name_of_the_contract_is_there_with_its_type_and_variant(
    families: dict[str, Any], name: str, kind: str
) -> None:
    family = families[name.removesuffix("_total") if kind == "counter" else name]
    assert family.type == kind
    names = {sample.name for sample in family.samples}
    assert name in names or kind == "histogram"
    assert {"stable"} <= {sample.labels["variant"] for sample in family.samples}


def test_duration_has_eleven_buckets(families: dict[str, Any]) -> None:
    assert len(DURATION_MS_BUCKETS) == 11
    bounds = {
        sample.labels["le"]
        for sample in families["okla_llm_response_duration_ms"].samples
        if sample.name.endswith("_bucket")
    }
    assert len(bounds) == 12  # and +Inf


def test_errors_have_their_type(families: dict[str, Any]) -> None:
    labels = [sample.labels for sample in families["okla_llm_requests_error"].samples]
    assert all(found["error_type"] == "overloaded" for found in labels)


def test_mean_follows_from_the_histogram(families: dict[str, Any]) -> None:
    samples = families["okla_llm_avg_response_time_ms"].samples
    assert {sample.value for sample in samples} == {60.0}


def test_page_has_every_replica_once(families: dict[str, Any]) -> None:
    for family in families.values():
        keys = [(s.name, tuple(sorted(s.labels.items()))) for s in family.samples]
        assert len(keys) == len(set(keys)), family.name
    replicas = {s.labels["replica"] for f in families.values() for s in f.samples}
    assert replicas == {"g1", "g2", "m1", "m2", "m3"}
    running = families["carril_engine_running"].samples
    assert {s.labels["replica"]: s.value for s in running} == {"m1": 0, "m2": 1, "m3": 2}


def test_each_family_is_declared_once() -> None:
    lines = [line for line in page().decode().splitlines() if line.startswith("# TYPE")]
    names = [line.split()[2] for line in lines]
    assert len(names) == len(set(names))


def test_everything_new_is_carrils_and_in_base_units(families: dict[str, Any]) -> None:
    for name in families:
        if name in {n.removesuffix("_total") for n in OKLA} | set(OKLA):
            continue
        assert name.startswith("carril_"), name
        assert not name.endswith(("_ms", "_mb", "_percent")), name


def test_model_that_was_replaced_is_no_longer_named() -> None:
    metrics = model_metrics("m1", 0)
    other = identity(model_sha256="cd" * 32, model_name="other")
    state = ModelState(
        replica="m1", state="ready", identity=other, config_hash="elsewhere", error=None
    )
    metrics.set_state(state)
    samples = {
        s.name: s for f in metrics.registry.collect() for s in f.samples if "carril" not in s.name
    }
    assert samples["okla_llm_model_info"].labels["sha256"] == "cd" * 6
    current = metrics.registry.get_sample_value("carril_model_config_current")
    assert current == 0


def test_label_values_with_quotes_and_newlines_survive() -> None:
    metrics = GatewayMetrics()
    metrics.requests.labels('a"b\\c\nd').inc()
    text = render([snapshot(metrics.registry, {"replica": "g"})]).decode()
    found = {
        sample.labels["variant"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "okla_llm_requests_total"
    }
    assert found == {'a"b\\c\nd'}


def test_guessed_tokens_are_shown_by_source() -> None:
    metrics = ModelMetrics()
    stats = EngineStats(
        guessed_by_source={"answers": 9, "prompt": 4}, right_by_source={"answers": 8, "prompt": 1}
    )
    metrics.set_engine(stats, 0.0)
    value = metrics.registry.get_sample_value
    assert value("carril_engine_guessed_tokens_total", {"source": "answers"}) == 9
    assert value("carril_engine_right_guesses_total", {"source": "answers"}) == 8
    assert value("carril_engine_right_guesses_total", {"source": "prompt"}) == 1
