"""The report as one HTML page: no scripts, nothing loaded from elsewhere, light and dark.

The order is that of trust: whether the data can be believed, what was decided and why, then the
numbers, then what only suggests.
"""

from collections.abc import Sequence
from html import escape

from experiments.analysis.conversations import Conversation
from experiments.analysis.report import charts, tables
from experiments.analysis.report.document import moment
from experiments.analysis.report.health import cards
from experiments.analysis.report.style import STYLE
from experiments.analysis.report.words import (
    REASONS,
    VERDICTS,
    effect,
    interval,
    number,
    p_value,
    percent,
)
from experiments.analysis.result import Analysis, Series
from experiments.decision.checks import guardrail_state, is_at_horizon, side_of
from experiments.decision.evidence import MetricEvidence, MetricRole, Population
from experiments.decision.verdict import Reason, ReasonCode, Verdict
from experiments.stats.comparison import Effect
from experiments.stats.noninferiority import Direction, GuardrailState

_ROLES = (
    (MetricRole.PRIMARY, "decides"),
    (MetricRole.GUARDRAIL, "must not get worse"),
    (MetricRole.SECONDARY, "explains"),
    (MetricRole.EXPLORATORY, "suggests"),
)

_SHORT = 24
"""Characters that a table cell keeps in one line."""


def to_html(analysis: Analysis, said: Sequence[Conversation] = ()) -> str:
    """Return the page.

    Args:
        analysis: What was found.
        said: Sample conversations, if texts are kept.
    """
    sections = (
        ("Can the data be believed?", _health(analysis)),
        ("Verdict", _verdict(analysis)),
        ("Metrics", _metrics(analysis)),
        ("How the effect developed", _series(analysis)),
        ("New sessions per day", _days(analysis)),
        ("Slices (exploratory)", _table(tables.slices(analysis)) if analysis.slices else ""),
        ("Sample conversations", _conversations(analysis, said)),
        ("What changed", _changes(analysis)),
        ("How this was decided", _provenance(analysis)),
    )
    body = "".join(f"<h2>{escape(name)}</h2>\n{part}\n" for name, part in sections if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Experiment {escape(analysis.experiment)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(analysis.experiment)}</h1>\n{_facts(analysis)}{body}</body></html>\n"
    )


def _facts(analysis: Analysis) -> str:
    phase = analysis.current
    facts = [
        f"A = {analysis.control} (control)",
        f"B = {analysis.treatment} (treatment)",
        f"{analysis.evidence.progress.runtime_days:.1f} days, "
        f"{moment(phase.first_at)[:16].replace('T', ' ')} to "
        f"{moment(phase.last_at)[:16].replace('T', ' ')} UTC",
        f"version {analysis.version}",
        "unit: session",
    ]
    hypothesis = analysis.declaration.hypothesis
    shown = f"<p><b>Hypothesis:</b> {escape(hypothesis)}</p>" if hypothesis else ""
    return f'<p class="facts">{" · ".join(escape(fact) for fact in facts)}</p>{shown}'


def _health(analysis: Analysis) -> str:
    boxes = "".join(
        f'<div class="card {card.css}"><div class="name">{escape(card.name)}</div>'
        f'<div class="value">{escape(card.value)}</div>'
        f'<div class="more">{escape(card.more)}</div></div>'
        for card in cards(analysis)
    )
    conflicts = "".join(
        f'<p class="bad-text">{escape(text)}</p>' for text in analysis.evidence.health.conflicts
    )
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in analysis.notes)
    return f'<div class="cards">{boxes}</div>{conflicts}{notes}{_table(tables.health(analysis))}'


def _verdict(analysis: Analysis) -> str:
    decision = analysis.decision
    css = {Verdict.PROMOTE_B: "good", Verdict.KEEP_A: "bad", Verdict.NO_CLEAR_WINNER: ""}
    colour = "bad" if ReasonCode.INVALID in decision.codes else css[decision.verdict]
    word = VERDICTS[decision.verdict]
    if ReasonCode.INVALID in decision.codes:
        word = "The data cannot be believed"
    elif ReasonCode.INSUFFICIENT in decision.codes:
        word = "Keep running" + (
            f", about {decision.days_left} more days" if decision.days_left else ""
        )
    believed = decision.is_valid
    reasons = "".join(_reason(reason) for reason in decision.reasons if reason.detail)
    left = ""
    if decision.units_left and believed:
        left = f"<p>{decision.units_left:,} of {analysis.evidence.progress.planned_units:,} "
        left += "planned sessions are still to come.</p>"
    codes = " · ".join([decision.verdict.value, *_categories(analysis)])
    return (
        f'<div class="verdict {colour}"><span class="word">{escape(word)}</span>'
        f'<span class="code">{escape(codes)}</span><ul>{reasons}</ul>{left}'
        f"{_score(analysis) if believed else ''}</div>"
    )


def _reason(reason: Reason) -> str:
    metric = f"<b>{escape(reason.metric)}</b>: " if reason.metric else ""
    return (
        f'<li>{metric}{escape(REASONS[reason.code])} <span class="code">{reason.code.value}</span>'
        f'<div class="soft">{escape(reason.detail)}</div></li>'
    )


def _categories(analysis: Analysis) -> list[str]:
    """Return the reasons that only name a category."""
    return [reason.code.value for reason in analysis.decision.reasons if not reason.detail]


def _score(analysis: Analysis) -> str:
    score = analysis.decision.score
    if score is None:
        return ""
    used = ReasonCode.TIE_BREAK_SCORE in analysis.decision.codes
    word = "It decided this tie." if used else "It decides only a tie that was shown."
    return f"<p>Score: {escape(score.arithmetic)}. <span class=soft>{word}</span></p>"


def _metrics(analysis: Analysis) -> str:
    adjusted = dict(analysis.decision.adjusted_p_values)
    header = (
        "<tr><th>metric</th><th class=num>A</th><th class=num>B</th><th class=num>B against A</th>"
        f'<th colspan="2">{100 * (1 - analysis.evidence.alpha):g} % interval, always valid unless '
        "marked</th><th class=num>p</th><th class=num>detectable</th></tr>"
    )
    rows = []
    for role, what in _ROLES:
        found = [metric for metric in analysis.evidence.metrics if metric.role is role]
        if not found:
            continue
        rows.append(
            f'<tr><td colspan="8"><span class="tag">{role.value}</span> '
            f'<span class="soft">{what}</span></td></tr>'
        )
        rows += [_metric(metric, adjusted, analysis) for metric in found]
    note = escape(tables.metrics(analysis).note)
    warning = ""
    if ReasonCode.INVALID in analysis.decision.codes:
        warning = '<p class="bad-text">Not to be believed; shown to find out what happened.</p>'
    return (
        f'{warning}<div class="scroll"><table>{header}{"".join(rows)}</table></div>'
        f'<p class="note">{note}; '
        "the red line is the margin of harm. Per protocol: only sessions that were always served "
        "by their own variant.</p>"
    )


def _metric(metric: MetricEvidence, adjusted: dict[str, float], analysis: Analysis) -> str:
    minor = metric.population is Population.PER_PROTOCOL
    opening = '<tr class="minor">' if minor else "<tr>"
    name = escape(metric.name) + (" <small>per protocol</small>" if minor else "")
    sizes = f"{metric.n_control:,} / {metric.n_treatment:,} sessions"
    first = f'<td class="line-up" title="{escape(metric.method)}, {sizes}">{name}</td>'
    if metric.effect is None:
        refusal = f"{metric.problem}: {metric.problem_detail}"
        return f'{opening}{first}<td colspan="7" class="wide open-text">{escape(refusal)}</td></tr>'
    css = _says(metric, analysis)
    p = metric.p_value if minor else adjusted.get(metric.name, metric.p_value)
    mark = "" if metric.always_valid else ' <span class="tag">fixed horizon</span>'
    cells = (
        f'<td class="num">{number(metric.control)}</td>',
        f'<td class="num">{number(metric.treatment)}</td>',
        f'<td class="num {css}-text">{effect(metric, metric.effect)}</td>',
        f"<td>{_bar(metric, css)}</td>",
        f'<td class="line-up">{escape(interval(metric))}{mark}</td>',
        f'<td class="num">{p_value(p)}</td>',
        f'<td class="num">{effect(metric, metric.detectable_effect, signed=False)}</td>',
    )
    return f"{opening}{first}{''.join(cells)}</tr>"


def _says(metric: MetricEvidence, analysis: Analysis) -> str:
    """Return `good`, `bad` or `open`: what the interval says, by the rules of the decision."""
    if ReasonCode.INVALID in analysis.decision.codes:
        return "open"
    if metric.role is MetricRole.GUARDRAIL:
        at_horizon = is_at_horizon(analysis.evidence)
        match guardrail_state(metric, at_horizon=at_horizon):
            case GuardrailState.PASSED:
                return "good"
            case GuardrailState.BREACHED:
                return "bad"
            case _:
                return "open"
    side = side_of(metric)
    if side is None or side.worst <= 0 <= side.best:
        return "open"
    return "good" if side.worst > 0 else "bad"


def _bar(metric: MetricEvidence, css: str) -> str:
    assert metric.effect is not None  # noqa: S101 (the caller has looked)
    margin = None
    if metric.role is MetricRole.GUARDRAIL and metric.margin is not None:
        worse = metric.margin if metric.direction is Direction.DECREASE else -metric.margin
        margin = worse
    label = f"{metric.name}: {effect(metric, metric.effect)}, {interval(metric)}"
    return charts.interval_bar(
        charts.Bar(metric.effect, metric.ci_lower, metric.ci_upper, css, margin, label)
    )


def _series(analysis: Analysis) -> str:
    roles = {
        metric.name: metric
        for metric in analysis.evidence.metrics
        if metric.population is Population.INTENTION_TO_TREAT
    }
    shown = [
        series
        for series in analysis.series
        if roles[series.metric].role in (MetricRole.PRIMARY, MetricRole.GUARDRAIL)
    ]
    if not shown:
        return ""
    order = [role for role, _ in _ROLES]
    shown.sort(key=lambda series: order.index(roles[series.metric].role))
    note = (
        '<p class="note">All sessions up to the end of a day. The band holds on all days at once: '
        "it may be looked at daily.</p>"
    )
    drawn = "".join(_one_series(series, roles[series.metric]) for series in shown)
    return f'<div class="charts">{drawn}</div>{note}'


def _one_series(series: Series, metric: MetricEvidence) -> str:
    relative = metric.effect_kind is Effect.RELATIVE

    def form(value: float) -> str:
        return percent(value, signed=True) if relative else number(value, signed=True)

    good = "up" if metric.direction is Direction.INCREASE else "down"
    title = f"<h3>{escape(series.metric)} <span class=soft>B against A, {good} is good</span></h3>"
    return f"<div>{title}{charts.effect_over_time(series, form)}</div>"


def _days(analysis: Analysis) -> str:
    return charts.exposures_per_day(analysis.days, analysis.control, analysis.treatment)


def _conversations(analysis: Analysis, said: Sequence[Conversation]) -> str:
    if not said:
        return ""
    columns = []
    for variant in (analysis.control, analysis.treatment):
        cards_ = "".join(_article(one) for one in said if one.variant == variant)
        columns.append(f"<div><h3>{escape(variant)}</h3>{cards_}</div>")
    note = '<p class="note">The latest ones that were kept, without personal data.</p>'
    return f'<div class="said">{"".join(columns)}</div>{note}'


def _article(one: Conversation) -> str:
    votes = {True: " · thumbs up", False: " · thumbs down", None: ""}
    intent = f"answer · {one.intent}" if one.intent else "answer"
    return (
        f'<article><p class="who">user</p><p>{escape(one.asked)}</p>'
        f'<p class="who">{escape(intent + votes[one.thumbs])}</p>'
        f"<p>{escape(one.answer)}</p></article>"
    )


def _changes(analysis: Analysis) -> str:
    rows = [[moment(at).replace("T", " "), text] for at, text in analysis.changes]
    return _table(tables.Table("", ("first seen (UTC)", "what"), rows))


def _provenance(analysis: Analysis) -> str:
    policy = analysis.decision.policy
    lines = [
        f"events sha256 {analysis.evidence.events_sha256}",
        f"evidence sha256 {analysis.decision.evidence_sha256}",
    ]
    shown = "".join(f"<p class=note><code>{escape(line)}</code></p>" for line in lines)
    rules = (
        f"at least {policy.min_units_per_arm:,} sessions per arm and {policy.min_runtime_days:g} "
        f"days; split voided at p {policy.srm_sequential_alpha:g} (every look) or "
        f"{policy.srm_chi2_alpha:g} (horizon); at most {policy.max_multi_exposed_share:.0%} of "
        f"sessions in two arms; error rate {analysis.evidence.alpha:g} over all looks together"
    )
    return (
        f"{_table(tables.checks(analysis))}<p class=note>Policy: {escape(rules)}.</p>{shown}"
        f"<p class=note>Check it: <code>carril exp decide {escape(analysis.experiment)} "
        "--replay EVIDENCE</code></p>"
    )


def _table(table: tables.Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f'<td class="{_css(cell)}">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{note}'


def _css(cell: str) -> str:
    """Return the class of a cell: numbers and short words stay in one line."""
    return "line-up" if len(cell) <= _SHORT else "wide"
