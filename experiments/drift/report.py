"""What a check says: as JSON, as Markdown, and as the alert that people get."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from experiments.alerts.alert import Alert, Severity
from experiments.alerts.config import AlertLevel
from experiments.drift.baseline import Baseline
from experiments.drift.check import CheckResult, SignalReport, VariantReport
from experiments.drift.hysteresis import Active, Change
from experiments.drift.levels import Level, Windowed, show_p
from experiments.drift.policy import DriftPolicy, SignalName

SCHEMA_VERSION = 1

TITLES = {
    SignalName.CONFIDENCE: "confidence drop",
    SignalName.FALLBACK_RATE: "fallback rate rise",
    SignalName.LATENCY_P95: "p95 latency rise",
    SignalName.SATISFACTION: "satisfaction drop",
    SignalName.LEAD_CAPTURE: "lead capture drop",
    SignalName.INTENTS: "intent distribution (KL)",
    SignalName.TOKENS: "tokens per answer change",
    SignalName.UNSEEN_INTENTS: "unseen intents",
}
_POINTS = frozenset({SignalName.FALLBACK_RATE, SignalName.SATISFACTION, SignalName.LEAD_CAPTURE})


def to_document(result: CheckResult, baseline: Baseline, policy: DriftPolicy) -> dict[str, Any]:
    """Return the report for JSON; what is not a number is null."""
    document: dict[str, Any] = _finite(
        {
            "schema_version": SCHEMA_VERSION,
            "level": result.level.value,
            "checked_at": _iso(result.checked_at),
            "baseline": {
                "sha256": baseline.sha256,
                "since": baseline.since.isoformat(),
                "until": baseline.until.isoformat(),
                "provisional": baseline.provisional,
            },
            "policy_sha256": _policy_sha256(policy),
            "findings": [
                _finding(variant.variant, item, policy)
                for variant in result.variants
                for item in variant.signals
                if item.active is not None
            ],
            "changes": [
                {
                    "variant": variant.variant,
                    "signal": item.judgement.signal.value,
                    "change": item.change.value,
                    "level": item.level.value,
                }
                for variant in result.variants
                for item in variant.signals
                if item.change is not None
            ],
            "variants": {v.variant: _variant(v) for v in result.variants},
            "notes": list(result.notes),
            "retrain": None,
        }
    )
    return document


def to_markdown(document: dict[str, Any]) -> str:
    """Return the report for people."""
    base = document["baseline"]
    lines = [
        f"# Drift: {document['level'].replace('_', ' ')}",
        "",
        f"Checked at {document['checked_at']} against the baseline of {base['since'][:10]} to "
        f"{base['until'][:10]} (`{base['sha256'][:12]}`"
        + (", provisional: short or small)." if base["provisional"] else ")."),
    ]
    if document["findings"]:
        lines += ["", "## Findings", ""]
        for item in document["findings"]:
            lines.append(
                f"- **{item['severity']}** {item['variant']}: {item['title']}. "
                f"{'; '.join(item['reasons'])}. Since {item['since']}; acknowledge by "
                f"{item['sla']['acknowledge_by']}, resolve by {item['sla']['resolve_by']}."
            )
    for name, variant in document["variants"].items():
        lines += _markdown_variant(name, variant)
    if document["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in document["notes"])]
    retrain = document["retrain"]
    if retrain is not None:
        verdict = "time to train again" if retrain.get("due") else "not now"
        reasons = "; ".join(retrain.get("reasons", [])) or retrain.get("error", "")
        lines += ["", "## Retraining", "", f"{verdict}: {reasons}"]
    return "\n".join(lines) + "\n"


def alert_of(result: CheckResult, policy: DriftPolicy) -> tuple[Alert, AlertLevel] | None:
    """Return the news of a check and its level; None if there is none.

    A finding is news when it opens, changes its level or ends, not every six hours.
    """
    news = [
        (variant.variant, item)
        for variant in result.variants
        for item in variant.signals
        if item.change is not None
    ]
    if not news:
        return None
    open_now = [item for _, item in news if item.active is not None]
    severity: Severity = "resolved"
    if open_now:
        critical = any(item.level is Level.CRITICAL for item in open_now)
        severity = "critical" if critical else "warning"
    level: AlertLevel = "warning"
    if severity == "critical" or any(_was_critical(item) for _, item in news):
        level = "critical"
    titles = [f"{name}: {TITLES[item.judgement.signal]}" for name, item in news]
    identity = json.dumps(
        [
            result.memory.baseline_sha256,
            result.checked_at,
            [(name, item.judgement.signal, item.change) for name, item in news],
        ]
    )
    alert = Alert(
        alert_id=hashlib.sha256(identity.encode()).hexdigest()[:32],
        severity=severity,
        title=f"Drift {severity}",
        summary=", ".join(titles),
        facts=tuple(_facts(result, open_now, policy)),
        lines=tuple(_news_line(name, item) for name, item in news),
        at=datetime.fromtimestamp(result.checked_at, UTC),
        link=policy.alerts.link,
    )
    return alert, level


def show_effect(signal: SignalName, value: float | None) -> str:
    """Return an effect with its unit."""
    if value is None:
        return "-"
    if signal is SignalName.INTENTS:
        return f"{value:.3f} nats"
    return f"{value * 100:+.1f} {'pp' if signal in _POINTS else '%'}"


def _finding(variant: str, item: SignalReport, policy: DriftPolicy) -> dict[str, Any]:
    active = item.active
    assert active is not None  # noqa: S101 (the caller looked)
    acknowledge, resolve = _deadlines(active, policy)
    reasons = list(item.judgement.reasons)
    if item.judgement.level.rank < active.level.rank:
        reasons.append(
            f"stays {active.level.value} until it is below {policy.hysteresis.clear_below:.0%} of "
            f"the threshold in {policy.hysteresis.clear_checks} checks"
        )
    return {
        "variant": variant,
        "signal": item.judgement.signal.value,
        "title": TITLES[item.judgement.signal],
        "severity": active.level.value,
        "since": _iso(active.since),
        "change": None if item.change is None else item.change.value,
        "reasons": reasons,
        "evidence": _signal(item),
        "sla": {
            "acknowledge_by": acknowledge.isoformat(timespec="seconds"),
            "resolve_by": resolve.isoformat(timespec="seconds"),
        },
    }


def _deadlines(active: Active, policy: DriftPolicy) -> tuple[datetime, datetime]:
    sla = policy.sla_critical if active.level is Level.CRITICAL else policy.sla_warning
    start = datetime.fromtimestamp(active.level_since, UTC)
    return start + timedelta(hours=sla.acknowledge_h), start + timedelta(hours=sla.resolve_h)


def _variant(report: VariantReport) -> dict[str, Any]:
    return {
        "level": report.level.value,
        "signals": {item.judgement.signal.value: _signal(item) for item in report.signals},
        "other_models": list(report.other_models),
        "performance": asdict(report.performance),
        "degradations": [asdict(item) for item in report.degradations],
        "anomalies": [asdict(item) | {"hour": _iso(item.hour)} for item in report.anomalies],
        "notes": list(report.notes),
    }


def _signal(item: SignalReport) -> dict[str, Any]:
    found = item.judgement
    return {
        "level": item.level.value,
        "level_now": found.level.value,
        "thresholds": {"warning": found.thresholds.warning, "critical": found.thresholds.critical},
        "adjusted_p": found.adjusted_p,
        "reasons": list(found.reasons),
        "fast": _window(found.fast),
        "slow": _window(found.slow),
    }


def _window(windowed: Windowed) -> dict[str, Any]:
    found = windowed.found
    return {
        "hours": windowed.hours,
        "effect": found.effect,
        "lower": found.lower,
        "standard_error": found.standard_error,
        "p_value": found.p_value,
        "reference": found.reference,
        "current": found.current,
        "n_reference": found.n_reference,
        "n_current": found.n_current,
        "method": found.method,
        "refusal": found.refusal,
        "detail": found.detail,
    }


def show_degradation(item: Mapping[str, Any]) -> str:
    """Return what got worse, for people."""
    size = "worse" if item["change"] is None else f"{item['change']:.0%} worse"
    return f"{item['name']} is {size}: {item['reference']:.4g} -> {item['current']:.4g}"


def _markdown_variant(name: str, variant: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"## {name}: {variant['level'].replace('_', ' ')}", "")
    yield "| signal | level | effect | lower bound | warning | critical | reference | now | n | p |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for key, item in variant["signals"].items():
        signal, slow = SignalName(key), item["slow"]
        if slow["effect"] is None:
            yield f"| {TITLES[signal]} | {item['level']} | {slow['refusal']} | | | | | | | |"
            continue
        limits = item["thresholds"]
        yield (
            f"| {TITLES[signal]} | {item['level']} | {show_effect(signal, slow['effect'])} "
            f"| {show_effect(signal, slow['lower'])} | {show_effect(signal, limits['warning'])} "
            f"| {show_effect(signal, limits['critical'])} | {slow['reference']:.4g} "
            f"| {slow['current']:.4g} | {slow['n_current']} | {show_p(item['adjusted_p'])} |"
        )
    shown = {k: v for k, v in variant["performance"].items() if v is not None}
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
    yield from ("", f"Performance of the last day: {numbers}.")
    for item in variant["degradations"]:
        yield f"- {show_degradation(item)}"
    for item in variant["anomalies"][:10]:
        yield (
            f"- {item['series']} at {item['hour']}: {item['value']:.4g}, usually "
            f"{item['usual']:.4g} (z {item['z']:.1f})"
        )
    for note in variant["notes"]:
        yield f"- {note}"


def _facts(
    result: CheckResult, news: list[SignalReport], policy: DriftPolicy
) -> Iterator[tuple[str, str]]:
    for variant in result.variants:
        yield f"Variant {variant.variant}", variant.level.value.replace("_", " ")
    deadlines = [_deadlines(item.active, policy) for item in news if item.active is not None]
    if deadlines:
        yield "Acknowledge by", f"{min(d[0] for d in deadlines):%Y-%m-%d %H:%M} UTC"
        yield "Resolve by", f"{min(d[1] for d in deadlines):%Y-%m-%d %H:%M} UTC"


def _news_line(name: str, item: SignalReport) -> str:
    found = item.judgement
    change = item.change.value if item.change is not None else ""
    return (
        f"{name}: {TITLES[found.signal]} {change} ({item.level.value}), effect "
        f"{show_effect(found.signal, found.slow.found.effect)}, thresholds "
        f"{show_effect(found.signal, found.thresholds.warning)} / "
        f"{show_effect(found.signal, found.thresholds.critical)}"
    )


def _was_critical(item: SignalReport) -> bool:
    return item.change is Change.DEESCALATED or (
        item.change is Change.RESOLVED and item.ended is Level.CRITICAL
    )


def _policy_sha256(policy: DriftPolicy) -> str:
    # Sets have no order, and a hash must not depend on the process.
    document = json.loads(policy.model_dump_json())
    document["fallback_intents"].sort()
    document["alerts"]["allowed_hosts"].sort()
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _finite(value: Any) -> Any:
    """Return the value with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
