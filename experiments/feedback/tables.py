"""An analysis as sections of tables: what the terminal, Markdown, HTML and JSON all show."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from experiments.feedback.analysis import Analysis, MetricResult
from experiments.feedback.answers import reply_of
from experiments.feedback.arms import Arm
from experiments.stats.proportions import Interval


class Bar(NamedTuple):
    """A point with its interval, on a scale."""

    estimate: float
    lower: float
    upper: float
    low: float
    high: float
    """Ends of the scale."""
    mark: float | None = None
    """What the interval is to be seen against, if anything."""


class Flag(str):
    """A word that should catch the eye."""

    __slots__ = ()


class Section(NamedTuple):
    """A table with a title and a word on how to read it."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Bar, ...], ...]
    empty: str
    """What to say when there is no row."""


def headline(analysis: Analysis) -> list[tuple[str, str]]:
    """Return the numbers to see first."""
    period = "no feedback yet"
    if analysis.first_at is not None and analysis.last_at is not None:
        period = f"{_day(analysis.first_at)} to {_day(analysis.last_at)}"
    return [
        ("Period", period),
        ("Votes", f"{analysis.n_votes} (and {analysis.n_replaced} replaced by later ones)"),
        ("Rated answers", str(analysis.n_answers)),
        ("Praised", _share(analysis.n_praised, analysis.n_answers)),
        ("Blamed", _share(analysis.n_blamed, analysis.n_answers)),
        ("With captured text", _share(analysis.n_with_text, analysis.n_answers)),
        ("Not joined", f"{analysis.n_unjoined} votes on answers that are not stored (yet)"),
    ]


def sections(analysis: Analysis) -> list[Section]:
    """Return the tables."""
    return [
        _metrics(analysis.metrics),
        _differences(analysis.metrics),
        _intents(analysis),
        _categories(analysis),
        _patterns(analysis),
        _examples(analysis),
    ]


def to_json(analysis: Analysis) -> dict[str, Any]:
    """Return the analysis as plain values; intervals are `ci_lower` and `ci_upper`."""
    return {
        "schema_version": 1,
        "n_votes": analysis.n_votes,
        "n_replaced": analysis.n_replaced,
        "n_unjoined": analysis.n_unjoined,
        "n_answers": analysis.n_answers,
        "n_with_text": analysis.n_with_text,
        "n_praised": analysis.n_praised,
        "n_blamed": analysis.n_blamed,
        "first_at": _iso(analysis.first_at),
        "last_at": _iso(analysis.last_at),
        "metrics": [_metric_json(metric) for metric in analysis.metrics],
        "categories": analysis.categories,
        "intents": [
            {
                "intent": row.intent,
                "n_rated": row.n_rated,
                "n_blamed": row.n_blamed,
                "n_wrong_intent": row.n_wrong_intent,
                "blamed_rate": row.blamed_rate,
                "ci_lower": row.interval.lower,
                "ci_upper": row.interval.upper,
                "weak": row.weak,
            }
            for row in analysis.intents
        ],
        "hallucination_patterns": [
            {
                "claim": row.claim.value,
                "n_untrue": row.n_untrue,
                "of_untrue": row.of_untrue,
                "n_praised": row.n_praised,
                "of_praised": row.of_praised,
                "ci_lower": row.interval.lower if row.interval else None,
                "ci_upper": row.interval.upper if row.interval else None,
                "suspicious": row.suspicious,
            }
            for row in analysis.patterns
        ],
        "examples": [
            {
                "inference_id": example.inference_id,
                "category": example.category,
                "variant": example.variant,
                "intent": example.intent,
                "answer": example.answer,
                "correction": example.correction,
            }
            for example in analysis.examples
        ],
    }


def _metric_json(metric: MetricResult) -> dict[str, Any]:
    return {
        "metric": metric.metric,
        "direction": metric.direction,
        "level": metric.level,
        "experiment": metric.experiment,
        "version": metric.version,
        "arms": [
            {
                "variant": arm.variant,
                "n_units": arm.n_units,
                "n_votes": arm.n_votes,
                "estimate": arm.estimate,
                "ci_lower": arm.interval.lower if arm.interval else None,
                "ci_upper": arm.interval.upper if arm.interval else None,
            }
            for arm in metric.arms
        ],
        "differences": [
            {
                "variant": row.variant,
                "control": row.control,
                "effect": row.comparison.effect if row.comparison else None,
                "ci_lower": row.comparison.ci_lower if row.comparison else None,
                "ci_upper": row.comparison.ci_upper if row.comparison else None,
                "p_value": row.comparison.p_value if row.comparison else None,
                "method": row.comparison.method if row.comparison else None,
                "always_valid": True,
                "refusal": row.refusal,
            }
            for row in metric.differences
        ],
    }


def _metrics(metrics: Sequence[MetricResult]) -> Section:
    rows: list[tuple[str | Bar, ...]] = []
    for metric in metrics:
        low, high = _scale(metric.arms)
        rows += [
            (
                metric.metric,
                metric.experiment or "not enrolled",
                arm.variant,
                str(arm.n_units),
                str(arm.n_votes),
                f"{arm.estimate:.3f}",
                _interval(arm.interval),
                Bar(arm.estimate, *arm.interval, low, high) if arm.interval else "",
            )
            for arm in metric.arms
        ]
    return Section(
        "Metrics per variant",
        "Every session counts once, by the mean of its votes. Intervals are for one look.",
        ("metric", "experiment", "variant", "sessions", "votes", "mean", "95 % interval", ""),
        tuple(rows),
        "No numeric feedback yet.",
    )


def _differences(metrics: Sequence[MetricResult]) -> Section:
    rows: list[tuple[str | Bar, ...]] = []
    for metric in metrics:
        reach = _reach(metric)
        for row in metric.differences:
            found = row.comparison
            rows.append(
                (
                    metric.metric,
                    metric.experiment or "",
                    f"{row.variant} - {row.control}",
                    "" if found is None else f"{found.effect:+.3f}",
                    "" if found is None else f"[{found.ci_lower:+.3f}, {found.ci_upper:+.3f}]",
                    "" if found is None else _p_value(found.p_value),
                    ""
                    if found is None or found.ci_lower is None or found.ci_upper is None
                    else Bar(found.effect, found.ci_lower, found.ci_upper, -reach, reach, 0.0),
                    row.refusal or "",
                )
            )
    return Section(
        "Differences to control",
        "Always valid: the interval holds however often one looks. Only enrolled sessions. The "
        "line is no difference.",
        ("metric", "experiment", "difference", "effect", "interval", "p", "", "remark"),
        tuple(rows),
        "No two variants of an experiment with numeric feedback.",
    )


def _intents(analysis: Analysis) -> Section:
    overall = analysis.n_blamed / analysis.n_answers if analysis.n_answers else None
    return Section(
        "Intents, the weakest first",
        "Share of rated answers that were blamed. Weak: surely above the share of all, with the "
        "error rate divided by the number of intents. The line is the share of all. Who rates is "
        "not chance: a place to look.",
        ("intent", "rated", "blamed", "share", "interval", "wrong intent", "", "weak"),
        tuple(
            (
                row.intent,
                str(row.n_rated),
                str(row.n_blamed),
                f"{row.blamed_rate:.1%}",
                _interval(row.interval),
                str(row.n_wrong_intent),
                Bar(row.blamed_rate, *row.interval, 0.0, 1.0, overall),
                Flag("weak") if row.weak else "",
            )
            for row in analysis.intents
        ),
        "No rated answer names an intent.",
    )


def _categories(analysis: Analysis) -> Section:
    variants = sorted({name for counts in analysis.categories.values() for name in counts})
    return Section(
        "Categories",
        "Votes per category and variant.",
        ("category", "votes", *variants),
        tuple(
            (category, str(sum(counts.values())), *(str(counts.get(v, 0)) for v in variants))
            for category, counts in analysis.categories.items()
        ),
        "No category was chosen yet.",
    )


def _patterns(analysis: Analysis) -> Section:
    return Section(
        "Hallucination patterns",
        "What captured answers claim: those called untrue (hallucination, wrong_price, "
        "wrong_vehicle_info) against praised ones.",
        ("claim", "in untrue answers", "in praised answers", "difference", "suspicious"),
        tuple(
            (
                row.claim.value,
                _share(row.n_untrue, row.of_untrue),
                _share(row.n_praised, row.of_praised),
                _interval(row.interval),
                Flag("yes") if row.suspicious else "",
            )
            for row in analysis.patterns
        ),
        "No captured answer to compare; text capture is off, or nothing was rated yet.",
    )


def _examples(analysis: Analysis) -> Section:
    return Section(
        "Answers called untrue",
        "Without personal data. The text is there where capture was on.",
        ("category", "variant", "intent", "answer", "correction"),
        tuple(
            (
                example.category,
                example.variant or "?",
                example.intent or "",
                reply_of(example.answer)
                if example.answer
                else f"(not captured: {example.inference_id})",
                example.correction or "",
            )
            for example in analysis.examples
        ),
        "No answer was called untrue.",
    )


def _reach(metric: MetricResult) -> float:
    """Return a scale, the same to both sides of zero, for the differences of a metric."""
    found = [row.comparison for row in metric.differences if row.comparison]
    ends = [end for c in found for end in (c.ci_lower, c.ci_upper) if end is not None]
    return 1.1 * max(map(abs, ends), default=0.0) or 1.0


def _scale(arms: Sequence[Arm]) -> tuple[float, float]:
    """Return a common scale for the arms of a metric."""
    ends = [end for arm in arms if arm.interval for end in arm.interval] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    margin = (high - low) * 0.05 or 1.0
    return low - margin, high + margin


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval.lower:.3f}, {interval.upper:.3f}]"


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "0"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
