"""The report as Markdown, for terminals, pull requests and model cards."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.evaluation.report import (
    BaselineResult,
    CalibrationFigures,
    Dimension,
    KeptCalibration,
    Rate,
    Report,
)

CLASSIFIER_HEADER = (
    "classifier",
    "intent accuracy",
    "95 % interval",
    "slang",
    "macro F1",
    "trained on",
)
SCOPE_HEADER = (
    "off-topic",
    "recognised",
    "95 % interval",
    "n",
    "false alarms",
    "95 % interval",
    "n",
)
_WORDS = {True: "yes", False: "**no**", None: "undecided"}


def to_markdown(report: Report) -> str:
    """Return the report as a page of tables."""
    target = report.target
    facts = [
        ("target", f"{target.kind} `{target.name}`"),
        ("version", target.version or "unknown"),
        ("SHA-256 of the model", f"`{target.sha256}`" if target.sha256 else "unknown"),
        ("grammar", "on" if target.grammar else "off"),
        ("intent prior", f"`{target.prior_sha256}`" if target.prior_sha256 else "none known"),
        ("items", ", ".join(f"{name} {s.n}" for name, s in sorted(report.suites.items()))),
        ("suite SHA-256", f"`{report.suite_sha256}`"),
        ("without an answer", str(report.n_errors)),
        ("at", report.created_at.isoformat()),
    ]
    parts = [
        f"# Evaluation of {target.name}",
        _table(("", ""), facts),
        "## Dimensions",
        _table(
            ("dimension", "value", "95 % interval", "n", "threshold", "kept"),
            [_dimension_row(d) for d in report.dimensions],
        ),
    ]
    if report.skipped:
        parts.append(f"Skipped: {', '.join(report.skipped)}.")
    parts += ["## Beside simpler classifiers", _baselines(report)]
    parts += ["## Intent accuracy by part", *_slices(report)]
    parts += ["## Calibration of the intent's probability", _calibration(report)]
    parts += ["## Off-topic questions", _table(SCOPE_HEADER, scope_rows(report))]
    parts += ["## Latency", _latency(report)]
    if report.findings:
        rows = [(f.id, f.kind, f.reason, _cell(f.text)) for f in report.findings]
        parts += ["## Findings", _table(("item", "kind", "reason", "answer"), rows)]
    return "\n\n".join(parts) + "\n"


def percent(value: float | None) -> str:
    """Return a share as `87.3 %`, or `-` where it is unknown."""
    return "-" if value is None else f"{100 * value:.1f} %"


def interval(lower: float | None, upper: float | None) -> str:
    """Return `85.1 to 89.2 %`, or `-`."""
    return "-" if lower is None or upper is None else f"{100 * lower:.1f} to {100 * upper:.1f} %"


def dimension_value(dimension: Dimension, value: float | None) -> str:
    """Return a value of a dimension in its unit."""
    if value is None:
        return "-"
    if dimension.name.endswith("_s"):
        return f"{value:.3g} s"
    return f"{value:.3f}" if dimension.name == "ece" else percent(value)


def dimension_interval(d: Dimension) -> str:
    """Return the interval of a dimension in its unit."""
    if d.name != "ece" or d.ci_lower is None or d.ci_upper is None:
        return interval(d.ci_lower, d.ci_upper)
    return f"{d.ci_lower:.3f} to {d.ci_upper:.3f}"


def _dimension_row(d: Dimension) -> Sequence[str]:
    sign = "≥" if d.direction == "at_least" else "≤"
    return (
        d.name,
        dimension_value(d, d.value),
        dimension_interval(d),
        str(d.n),
        f"{sign} {dimension_value(d, d.threshold)}",
        _WORDS[d.passed],
    )


def _baselines(report: Report) -> str:
    name = report.target.name
    accuracy = next((d for d in report.dimensions if d.name == "intent_accuracy"), None)
    slang = report.slices.by_register.get("street")
    macro = report.metrics.get("macro_f1")
    rows: list[Sequence[str]] = [
        (
            f"**{name}**",
            percent(accuracy.value if accuracy else None),
            interval(accuracy.ci_lower, accuracy.ci_upper) if accuracy else "-",
            percent(slang.value if slang else None),
            percent(macro),
            "-",
        )
    ]
    rows += [
        (
            b.name,
            percent(b.accuracy.value),
            interval(b.accuracy.ci_lower, b.accuracy.ci_upper),
            percent(b.slang_accuracy.value),
            percent(b.macro_f1),
            trained_on(b),
        )
        for b in report.baselines
    ]
    note = "" if report.baselines else "\n\nNo training file was given for the simpler ones."
    return _table(CLASSIFIER_HEADER, rows) + note


def trained_on(baseline: BaselineResult) -> str:
    """Return how many messages a simpler classifier has learnt from, or `-`."""
    return "-" if baseline.n_trained is None else f"{baseline.n_trained:,} messages"


def _slices(report: Report) -> Iterable[str]:
    for title, rates in (
        ("suite", report.slices.by_suite),
        ("register", report.slices.by_register),
        ("noise", report.slices.by_noise),
        ("intent", report.slices.by_intent),
    ):
        if rates:
            yield _table((title, "accuracy", "95 % interval", "n"), _rate_rows(rates))


def _rate_rows(rates: Mapping[str, Rate]) -> list[Sequence[str]]:
    return [
        (name, percent(r.value), interval(r.ci_lower, r.ci_upper), str(r.n))
        for name, r in rates.items()
    ]


def _calibration(report: Report) -> str:
    c = report.calibration
    if c.raw is None:
        return "The target gives no probabilities."
    kept = c.kept
    own = [] if kept is None else [_figures_row("by the model's calibration", kept.n, kept.after)]
    rows = [
        _figures_row("all answers, as the model says", c.n, c.raw),
        *own,
        *(
            _figures_row(label, c.n - c.n_fit, f)
            for label, f in (
                ("half not fitted on, before", c.heldout_raw),
                ("the same, after", c.heldout_fitted),
            )
            if f is not None
        ),
    ]
    table = _table(("", "n", "ECE", "adaptive ECE", "Brier", "log-loss"), rows)
    selective = _table(
        ("surest answers", "accuracy", "from probability"),
        [(percent(s.coverage), percent(s.accuracy), f"{s.threshold:.3f}") for s in c.selective],
    )
    temperature = "none could be fitted" if c.temperature is None else f"{c.temperature:.2f}"
    note = f"Temperature: {temperature} (from {c.n_fit} answers)."
    if kept is not None:
        note = f"{kept_note(kept)}\n\nOne fitted here for comparison: {temperature}."
    return f"{table}\n\n{note}\n\n{selective}"


def kept_note(kept: KeptCalibration) -> str:
    """Return a sentence about the calibration that is kept with the model."""
    return (
        f"Calibration {kept.sha256[:12]}, fitted on the data {kept.data_sha256[:12]}: temperature "
        f"{kept.temperature:.2f}, slope {kept.slope:.2f}, intercept {kept.intercept:+.2f}. ECE "
        f"{kept.after.ece:.3f} ({kept.ece_lower:.3f} to {kept.ece_upper:.3f}); exact probabilities "
        f"would show {kept.ece_by_chance:.3f} with as many answers."
    )


def scope_rows(report: Report) -> list[tuple[str, ...]]:
    """Return how off-topic questions are told, by everything that could decide it."""
    scope, kept = report.out_of_scope, report.calibration.kept
    if scope.named_recall is None or scope.named_false_alarms is None:
        return [_scope_row("by the intent named", scope.recall, scope.false_alarms)]
    threshold = None if kept is None else kept.out_of_scope_threshold
    label = "by the threshold" if threshold is None else f"by the threshold {threshold:.4f}"
    return [
        _scope_row(label, scope.recall, scope.false_alarms),
        _scope_row("by the intent named", scope.named_recall, scope.named_false_alarms),
    ]


def _scope_row(label: str, *rates: Rate) -> tuple[str, ...]:
    cells = [(percent(r.value), interval(r.ci_lower, r.ci_upper), str(r.n)) for r in rates]
    return (label, *(cell for row in cells for cell in row))


def _figures_row(label: str, n: int, f: CalibrationFigures) -> Sequence[str]:
    return (
        label,
        str(n),
        f"{f.ece:.3f}",
        f"{f.ece_adaptive:.3f}",
        f"{f.brier:.3f}",
        f"{f.nll:.3f}",
    )


def _latency(report: Report) -> str:
    found = report.latency
    values = (found.p50_s, found.p90_s, found.p95_s, found.p99_s, found.mean_s, found.ttft_p95_s)
    cells = ["-" if v is None else f"{v:.3f} s" for v in values]
    speed = "-" if found.tokens_per_s is None else f"{found.tokens_per_s:.0f}"
    header = ("p50", "p90", "p95", "p99", "mean", "first token p95", "tokens/s")
    return _table(header, [(*cells, speed)])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"
