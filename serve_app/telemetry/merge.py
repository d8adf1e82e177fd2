"""Joining the registries of many replicas into one Prometheus page."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample


class Family(NamedTuple):
    """One metric with its samples, as plain data that crosses process borders."""

    name: str
    documentation: str
    type: str
    samples: tuple[tuple[str, dict[str, str], float], ...]


def snapshot(registry: CollectorRegistry, labels: Mapping[str, str]) -> list[Family]:
    """Copy a registry.

    Args:
        registry: Where the metrics live.
        labels: Labels to add to every sample.
    """
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple((s.name, {**s.labels, **labels}, s.value) for s in metric.samples),
        )
        for metric in registry.collect()
    ]


def relabel(families: Iterable[Family], labels: Mapping[str, str]) -> list[Family]:
    """Return the families with more labels on every sample."""
    return [
        family._replace(
            samples=tuple((n, {**own, **labels}, value) for n, own, value in family.samples)
        )
        for family in families
    ]


def render(snapshots: Iterable[Iterable[Family]]) -> bytes:
    """Return the Prometheus text of all snapshots together, one family per name."""
    merged: dict[str, Metric] = {}
    for families in snapshots:
        for family in families:
            metric = merged.get(family.name)
            if metric is None:
                metric = merged[family.name] = Metric(
                    family.name, family.documentation, family.type
                )
            metric.samples.extend(Sample(name, labels, v) for name, labels, v in family.samples)
    return generate_latest(_Static(merged.values()))


class _Static(CollectorRegistry):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        super().__init__()
        self.register(_Holder(list(metrics)))


class _Holder(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics
