"""The report as one HTML file: no scripts, nothing loaded from elsewhere, light and dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from experiments.evaluation import svg
from experiments.evaluation.markdown import (
    CLASSIFIER_HEADER,
    SCOPE_HEADER,
    dimension_interval,
    dimension_value,
    interval,
    kept_note,
    percent,
    scope_rows,
    trained_on,
)
from experiments.evaluation.predictions import Prediction
from experiments.evaluation.report import CalibrationFigures, Dimension, Rate, Report

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --page: #fff; --card: #f5f7fa;
  --rule: #d5dbe3; --blue: #2868c8; --orange: #c05f12; --good: #1d7a46; --bad: #bb2f2f;
  --maybe: #8a6500; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #9aa6b5; --page: #14181e; --card: #1d232b; --rule: #37414d;
    --blue: #6ea5f5; --orange: #f0a050; --good: #5cc98b; --bad: #f07b7b; --maybe: #e0b64c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.facts { color: var(--soft); margin-top: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.text { overflow-wrap: anywhere; font-size: .85rem; }
.scroll { overflow-x: auto; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.maybe { color: var(--maybe); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg text.tick { fill: var(--soft); font-size: 11px; } svg text.count { font-size: 9px; }
.grid { stroke: var(--rule); } .frame { fill: none; stroke: var(--rule); }
.diagonal { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.bar { fill: var(--blue); fill-opacity: .55; } .whisker { stroke: var(--ink); fill: none; }
.line { fill: none; stroke-width: 1.5; } .line.raw { stroke: var(--orange); }
.line.fitted { stroke: var(--blue); } .dot.raw { fill: var(--orange); fill-opacity: .75; }
.dot.fitted { fill: var(--blue); fill-opacity: .75; }
.hit { fill: var(--blue); } .miss { fill: var(--bad); }
"""
_VERDICTS = {
    True: '<span class="good">yes</span>',
    False: '<span class="bad">no</span>',
    None: '<span class="maybe">undecided</span>',
}


def to_html(report: Report, predictions: Sequence[Prediction]) -> str:
    """Return the page.

    Args:
        report: What was found.
        predictions: The answers behind it, for the latency chart.
    """
    target = report.target
    facts = [
        target.kind,
        f"version {target.version or 'unknown'}",
        f"model {target.sha256 or 'hash unknown'}",
        f"grammar {'on' if target.grammar else 'off'}",
        f"intent prior {target.prior_sha256 or 'none known'}",
        ", ".join(f"{name}: {s.n}" for name, s in sorted(report.suites.items())),
        f"{report.n_errors} without an answer",
        report.created_at.isoformat(),
    ]
    sections = [
        ("Dimensions", _dimensions(report)),
        ("Beside simpler classifiers", _classifiers(report)),
        ("Intent accuracy by intent", _rates("by intent", report.slices.by_intent)),
        ("By register", _rates("by register", report.slices.by_register)),
        ("By noise", _rates("by noise", report.slices.by_noise)),
        ("Which intent was taken for which", _confusion(report)),
        ("Calibration of the intent's probability", _calibration(report)),
        ("Off-topic questions", _table(SCOPE_HEADER, scope_rows(report))),
        ("Latency", _latency(report, predictions)),
        ("Findings", _findings(report)),
    ]
    body = "".join(f"<h2>{escape(name)}</h2>\n{part}\n" for name, part in sections if part)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation of {escape(target.name)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>Evaluation of {escape(target.name)}</h1>\n"
        f'<p class="facts">{" · ".join(escape(fact) for fact in facts)}</p>\n{body}</html>\n'
    )


def _dimensions(report: Report) -> str:
    rows = [_dimension_row(d) for d in report.dimensions]
    skipped = f"<p>Skipped: {escape(', '.join(report.skipped))}.</p>" if report.skipped else ""
    header = ("dimension", "value", "95 % interval", "n", "threshold", "kept")
    return _table(header, rows) + skipped


def _dimension_row(d: Dimension) -> Sequence[str]:
    sign = "≥" if d.direction == "at_least" else "≤"
    return (
        escape(d.name),
        dimension_value(d, d.value),
        dimension_interval(d),
        str(d.n),
        f"{sign} {dimension_value(d, d.threshold)}",
        _VERDICTS[d.passed],
    )


def _classifiers(report: Report) -> str:
    own = next((d for d in report.dimensions if d.name == "intent_accuracy"), None)
    slang = report.slices.by_register.get("street")
    rows: list[Sequence[str]] = [
        (
            f"<strong>{escape(report.target.name)}</strong>",
            percent(own.value if own else None),
            interval(own.ci_lower, own.ci_upper) if own else "-",
            percent(slang.value if slang else None),
            percent(report.metrics.get("macro_f1")),
            "-",
        )
    ]
    rows += [
        (
            escape(b.name),
            percent(b.accuracy.value),
            interval(b.accuracy.ci_lower, b.accuracy.ci_upper),
            percent(b.slang_accuracy.value),
            percent(b.macro_f1),
            trained_on(b),
        )
        for b in report.baselines
    ]
    return _table(CLASSIFIER_HEADER, rows)


def _rates(title: str, rates: Mapping[str, Rate]) -> str:
    rows = [
        svg.Bar(name, r.value, r.ci_lower, r.ci_upper, f"{percent(r.value)} of {r.n}")
        for name, r in rates.items()
        if r.value is not None
    ]
    return svg.bars(f"Intent accuracy {title}", rows) if rows else ""


def _confusion(report: Report) -> str:
    if not any(map(any, report.confusion.counts)):
        return ""
    chart = svg.heatmap("Confusion matrix", report.confusion.labels, report.confusion.counts)
    return (
        "<p>Rows are the right intents, columns the predicted ones; a count is shown where they "
        f'differ.</p><div class="scroll">{chart}</div>'
    )


def _calibration(report: Report) -> str:
    c = report.calibration
    if c.raw is None:
        return "<p>The target gives no probabilities.</p>"
    kept = c.kept
    named = [("as the model says", "raw", c.heldout_raw or c.raw)]
    if kept is not None:
        named = [
            ("as the model says", "raw", kept.before),
            ("by its calibration", "fitted", kept.after),
        ]
    elif c.heldout_fitted is not None:
        named.append((f"temperature {c.temperature:.2f}", "fitted", c.heldout_fitted))
    chart = svg.reliability("Reliability", [_line(*entry) for entry in named])
    rows = [
        (escape(label), f"{f.ece:.3f}", f"{f.ece_adaptive:.3f}", f"{f.brier:.3f}", f"{f.nll:.3f}")
        for label, _, f in named
    ]
    table = _table(("", "ECE", "adaptive ECE", "Brier", "log-loss"), rows)
    surest = [(percent(s.coverage), percent(s.accuracy), f"{s.threshold:.3f}") for s in c.selective]
    selective = _table(("surest answers", "accuracy", "from probability"), surest)
    note = f"<p>Fitted on {c.n_fit} answers, shown on the other {c.n - c.n_fit}.</p>"
    if kept is not None:
        note = f"<p>{escape(kept_note(kept))}</p>"
    return chart + note + table + selective


def _line(label: str, css: str, figures: CalibrationFigures) -> svg.Line:
    points = [
        (b.mean_probability, b.accuracy, b.n)
        for b in figures.bins
        if b.mean_probability is not None and b.accuracy is not None
    ]
    return svg.Line(label, css, [(x, y) for x, y, _ in points], [n for _, _, n in points])


def _latency(report: Report, predictions: Sequence[Prediction]) -> str:
    found = report.latency
    named = [
        (name, value)
        for name, value in (
            ("p50", found.p50_s),
            ("p90", found.p90_s),
            ("p95", found.p95_s),
            ("p99", found.p99_s),
        )
        if value is not None
    ]
    if not named:
        return ""
    times = [p.latency_s for p in predictions if p.error is None]
    speed = "" if found.tokens_per_s is None else f", {found.tokens_per_s:.0f} tokens/s"
    mean = "" if found.mean_s is None else f"mean {found.mean_s:.3g} s"
    note = f"<p>{found.n} answers, {mean}{speed}.</p>"
    return svg.histogram("Latency of answers in seconds", times, named) + note


def _findings(report: Report) -> str:
    rows = [
        (escape(f.id), escape(f.kind), escape(f.reason), escape(f.text)) for f in report.findings
    ]
    return _table(("item", "kind", "reason", "answer"), rows, last="text") if rows else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, last: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for row in rows:
        cells = [f"<td>{cell}</td>" for cell in row]
        if last:
            cells[-1] = f'<td class="{last}">{row[-1]}</td>'
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
