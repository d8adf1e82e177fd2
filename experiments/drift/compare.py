"""Comparing two frozen periods: the same signals and thresholds, one window, no memory."""

from pathlib import Path
from typing import Any

from experiments.drift.baseline import Baseline, Reference, read_baseline
from experiments.drift.check import CheckResult, Memory, SignalReport, VariantReport
from experiments.drift.errors import BadInput
from experiments.drift.levels import Windowed, judge, worst
from experiments.drift.performance import degradations
from experiments.drift.policy import DriftPolicy
from experiments.drift.report import to_document
from experiments.drift.signals import measure

_HOUR_S = 3600.0


def compare_baselines(reference: Path, current: Path, policy: DriftPolicy) -> dict[str, Any]:
    """Compare the variants that two baseline files share.

    Returns:
        A report as of a check; its findings are those of this comparison alone.

    Raises:
        BadInput: If a file cannot be used, counts otherwise, or shares no variant.
    """
    old, new = read_baseline(reference), read_baseline(current)
    if old.definitions != new.definitions:
        raise BadInput(
            f"{reference} and {current} count differently: {old.definitions.model_dump()} and "
            f"{new.definitions.model_dump()}"
        )
    shared = [name for name in old.variants if name in new.variants]
    if not shared:
        raise BadInput(
            f"no variant is in both files: {sorted(old.variants)} and {sorted(new.variants)}"
        )
    reports = tuple(
        _compare(name, old.variants[name], new.variants[name], policy, len(shared))
        for name in shared
    )
    result = CheckResult(
        level=worst([report.level for report in reports]),
        checked_at=new.until.timestamp(),
        variants=reports,
        memory=Memory(baseline_sha256=old.sha256),
        notes=_notes(old, new),
    )
    document = to_document(result, old, policy)
    return document | {"compared": {"sha256": new.sha256, "since": new.since.isoformat()}}


def _compare(
    name: str, old: Reference, new: Reference, policy: DriftPolicy, n_variants: int
) -> VariantReport:
    alpha = policy.alpha(critical=True, n_variants=n_variants)
    hours = (new.summary.until - new.summary.since) / _HOUR_S
    found = {
        signal: Windowed(hours=hours, found=item)
        for signal, item in measure(old.summary, new.summary, policy, alpha=alpha).items()
    }
    signals = tuple(
        SignalReport(level=item.level, judgement=item, active=None, change=None)
        for item in judge(found, found, policy, n_variants=n_variants)
    )
    other = tuple(sorted(set(new.models) - set(old.models)))
    return VariantReport(
        variant=name,
        level=worst([item.level for item in signals]),
        signals=signals,
        other_models=other,
        performance=new.performance,
        degradations=tuple(degradations(old.performance, new.performance, policy.degradation)),
        anomalies=(),
        notes=(f"other weights: {', '.join(sha[:12] for sha in other)}",) if other else (),
    )


def _notes(old: Baseline, new: Baseline) -> tuple[str, ...]:
    names = sorted(old.variants.keys() ^ new.variants.keys())
    return tuple(f"variant {name!r} is in one file only" for name in names)
