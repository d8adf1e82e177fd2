"""An analysis as a JSON document: what the routes answer and `--json` prints."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from experiments.analysis.assemble import ARMS
from experiments.analysis.history import Phase
from experiments.analysis.result import Analysis
from experiments.analysis.sums import Counts
from experiments.decision.evidence import MetricEvidence

SCHEMA_VERSION = 1
"""Version of the document."""
_SECONDS_PER_DAY = 86_400


def to_document(analysis: Analysis) -> dict[str, Any]:
    """Return the analysis as plain data with no NaN and no infinity."""
    decision, evidence = analysis.decision, analysis.evidence
    health = evidence.health
    score = decision.score if decision.is_valid else None
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": analysis.experiment,
        "version": analysis.version,
        "declared": analysis.declared,
        "hypothesis": analysis.declaration.hypothesis,
        "verdict": decision.verdict.value,
        "reasons": [_plain(asdict(reason)) for reason in decision.reasons],
        "checks": [_plain(asdict(check)) for check in decision.checks],
        "score": None if score is None else _plain(asdict(score)),
        "units_left": decision.units_left,
        "days_left": decision.days_left,
        "alpha": evidence.alpha,
        "runtime_days": evidence.progress.runtime_days,
        "planned_units": evidence.progress.planned_units,
        "phase": _phase(analysis.current) | {"number": analysis.phase + 1},
        "n_phases": len(analysis.phases),
        "arms": {
            arm: {"variant": analysis.variant(arm)} | rates(analysis.counts[arm]) for arm in ARMS
        },
        "health": {
            "srm_chi2_p": health.srm_chi2_p,
            "srm_sequential_p": health.srm_sequential_p,
            "multi_exposed_units": health.multi_exposed_units,
            "missing_p": health.missing_p,
            "conflicts": list(health.conflicts),
            "notes": list(analysis.notes),
        },
        "metrics": [_metric(metric, decision.adjusted_p_values) for metric in evidence.metrics],
        "days": [
            {"date": date_of(day.day), "control": day.control, "treatment": day.treatment}
            for day in analysis.days
        ],
        "series": {
            series.metric: [
                {
                    "date": date_of(point.day),
                    "units": point.units,
                    "effect": point.effect,
                    "ci_lower": point.lower,
                    "ci_upper": point.upper,
                }
                for point in series.points
            ]
            for series in analysis.series
        },
        "slices": [
            {
                "dimension": part.dimension,
                "value": part.value,
                "units": dict(part.units),
                "metric": _metric(part.metric, ()),
            }
            for part in analysis.slices
        ],
        "changes": [{"at": moment(at), "what": text} for at, text in analysis.changes],
        "events_sha256": evidence.events_sha256,
        "evidence_sha256": decision.evidence_sha256,
    }


def rates(counts: Counts) -> dict[str, Any]:
    """Return the counts of an arm, with the shares that its health is judged by."""
    return {
        "units": counts.units,
        "requests": counts.outcomes,
        "missing_units": counts.missing,
        "missing_share": share(counts.missing, counts.units),
        "error_share": share(counts.errors, counts.outcomes),
        "abort_share": share(counts.aborts, counts.outcomes),
        "cached_share": share(counts.shared, counts.outcomes),
        "fallback_share": share(counts.foreign, counts.outcomes),
    }


def share(part: int, whole: int) -> float | None:
    """Return a share; None of nothing."""
    return part / whole if whole else None


def moment(seconds: float) -> str:
    """Return a time as ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def date_of(day: int) -> str:
    """Return a day, counted since the epoch, as ISO 8601."""
    return datetime.fromtimestamp(day * _SECONDS_PER_DAY, UTC).date().isoformat()


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "split": dict(sorted(phase.shares.items())),
        "units": dict(phase.units),
        "first_exposure_at": moment(phase.first_at),
        "last_exposure_at": moment(phase.last_at),
        "models": {variant: dict(seen) for variant, seen in sorted(phase.models.items())},
    }


def _metric(metric: MetricEvidence, adjusted: tuple[tuple[str, float], ...]) -> dict[str, Any]:
    row = _plain(asdict(metric))
    row["p_value_adjusted"] = dict(adjusted).get(metric.name)
    return row


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn enumerations into their words; everything else is plain already."""
    return {key: getattr(value, "value", value) for key, value in row.items()}
