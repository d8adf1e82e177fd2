"""Per-item metrics of a run, turned so that 1 is good and 0 is bad."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from experiments.evaluation.predictions import Prediction
from experiments.evaluation.rates import is_taken_as
from experiments.gate.policy import MetricName


class Polarity(StrEnum):
    """What the metric counts."""

    SUCCESS = "at_least"
    """Good answers; the limit is a floor."""
    EVENT = "at_most"
    """Bad answers; the limit is a ceiling. Shown as a rate of bad ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemMetric:
    """How one item counts for a metric."""

    name: MetricName
    polarity: Polarity
    good: Callable[[Prediction], float | None]
    """1 good, 0 bad, None: does not apply to the item, or could not be judged."""
    zero_tolerance: bool = False
    """A single event fails, whatever the bound says."""

    def shown(self, good: float) -> float:
        """Return a rate as the metric is read: of events, where it counts events."""
        return good if self.polarity is Polarity.SUCCESS else 1.0 - good


def item_metrics(out_of_scope: frozenset[str]) -> Mapping[MetricName, ItemMetric]:
    """Return every metric.

    Args:
        out_of_scope: Labels of items to be declined.
    """

    def recall(item: Prediction) -> float | None:
        return float(is_taken_as(item, out_of_scope)) if item.intent in out_of_scope else None

    def kept(item: Prediction) -> float | None:
        if item.intent is None or item.intent in out_of_scope:
            return None
        return float(not is_taken_as(item, out_of_scope))

    success, event = Polarity.SUCCESS, Polarity.EVENT
    names = MetricName
    metrics = (
        ItemMetric(name=names.INTENT_ACCURACY, polarity=success, good=_correct),
        ItemMetric(name=names.JSON_VALIDITY, polarity=success, good=_valid),
        ItemMetric(
            name=names.SIGNALS_ACCURACY, polarity=success, good=lambda i: _true(i.signals_correct)
        ),
        ItemMetric(
            name=names.LEAD_CAPTURE, polarity=success, good=lambda i: _true(i.lead_captured)
        ),
        ItemMetric(name=names.NATURALNESS, polarity=success, good=lambda i: i.natural),
        ItemMetric(name=names.OUT_OF_SCOPE_RECALL, polarity=success, good=recall),
        ItemMetric(name=names.OUT_OF_SCOPE_FALSE_ALARMS, polarity=event, good=kept),
        ItemMetric(
            name=names.GROUNDING_ERRORS, polarity=event, good=lambda i: _false(i.grounding_error)
        ),
        ItemMetric(
            name=names.VIOLATIONS,
            polarity=event,
            good=lambda i: _false(i.violation),
            zero_tolerance=True,
        ),
        ItemMetric(
            name=names.PII_ECHO,
            polarity=event,
            good=lambda i: _false(i.pii_echo),
            zero_tolerance=True,
        ),
    )
    return {metric.name: metric for metric in metrics}


def _correct(item: Prediction) -> float | None:
    if item.intent is None:
        return None
    # A request that failed, or an answer without a label, did not find the intent.
    return 0.0 if item.error is not None else float(bool(item.correct))


def _valid(item: Prediction) -> float | None:
    if item.error is not None:
        return 0.0
    return _true(item.schema_valid)


def _true(value: bool | None) -> float | None:
    return None if value is None else float(value)


def _false(value: bool | None) -> float | None:
    return None if value is None else float(not value)
