"""Hand-made SVG: intervals, the cumulative effect with its band, new sessions per day.

Colours come from the page's style sheet by class, so that one drawing serves light and dark. Every
drawing has a text that says the same to who cannot see it.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from experiments.analysis.report.document import date_of
from experiments.analysis.result import Day, Series

_WIDTH = 720
_HALF_WIDTH = 540
"""Two drawings beside each other."""
_MAX_TICKS = 6

Format = Callable[[float], str]


class Bar(NamedTuple):
    """An interval against zero, with the margin of harm if there is one."""

    effect: float
    lower: float | None
    upper: float | None
    css: str
    """`good`, `bad` or `open`: what the interval says."""
    margin: float | None
    """Where harm begins, signed; None without a margin."""
    label: str


def interval_bar(bar: Bar) -> str:
    """Return an interval on a scale of its own, zero always in it."""
    width, height, pad = 190, 26, 8
    ends = [bar.effect, 0.0]
    ends += [end for end in (bar.lower, bar.upper, bar.margin) if end is not None]
    low, high = min(ends), max(ends)
    room = (high - low or 1.0) * 0.08
    low, high = low - room, high + room

    def at(value: float) -> float:
        return pad + (width - 2 * pad) * (value - low) / (high - low)

    left = pad if bar.lower is None else at(bar.lower)
    right = width - pad if bar.upper is None else at(bar.upper)
    parts = [f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="1" y2="25"/>']
    if bar.margin is not None:
        parts.append(
            f'<line class="margin" x1="{at(bar.margin):.1f}" x2="{at(bar.margin):.1f}" '
            'y1="3" y2="23"/>'
        )
    parts += [
        f'<rect class="band {bar.css}" x="{left:.1f}" y="8" width="{max(1.0, right - left):.1f}" '
        'height="10" rx="3"/>',
        f'<circle class="dot {bar.css}" cx="{at(bar.effect):.1f}" cy="13" r="4.5"/>',
    ]
    return _svg(bar.label, width, height, parts, fixed=True)


def effect_over_time(series: Series, form: Format) -> str:
    """Return the cumulative effect at the end of every day, with its always-valid band."""
    points = series.points
    left, right, top, bottom = 78, 16, 14, 34
    width, height = _HALF_WIDTH, 230
    ends = [end for p in points for end in (p.lower, p.upper, p.effect) if end is not None]
    # The first days' bands are huge and may leave the picture; what counts is the end.
    last = points[-1]
    span = max(abs(end) for end in (last.lower, last.upper, last.effect, 0.0) if end is not None)
    low, high = max(min([*ends, 0.0]), -3 * span), min(max([*ends, 0.0]), 3 * span)
    room = (high - low or 1.0) * 0.05
    low, high = low - room, high + room

    def x(index: int) -> float:
        return left + (width - left - right) * (index + 0.5) / len(points)

    def y(value: float) -> float:
        inside = min(max(value, low), high)
        return top + (height - top - bottom) * (high - inside) / (high - low)

    upper = [(x(i), y(high if p.upper is None else p.upper)) for i, p in enumerate(points)]
    lower = [(x(i), y(low if p.lower is None else p.lower)) for i, p in enumerate(points)]
    if len(points) == 1:  # one day is a short piece, not a line without width
        upper = [(upper[0][0] - 12, upper[0][1]), (upper[0][0] + 12, upper[0][1])]
        lower = [(lower[0][0] - 12, lower[0][1]), (lower[0][0] + 12, lower[0][1])]
    outline = "L".join(f"{a:.1f} {b:.1f}" for a, b in [*upper, *reversed(lower)])
    line = "L".join(f"{x(i):.1f} {y(p.effect):.1f}" for i, p in enumerate(points))
    parts = _grid(low, high, y, left, width - right, form)
    parts += [
        f'<line class="zero" x1="{left}" x2="{width - right}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>',
        f'<path class="band open" d="M{outline}Z"/>',
        f'<path class="line" d="M{line}"/>',
    ]
    for i, point in enumerate(points):
        ends_text = " to ".join(
            "unbounded" if end is None else form(end) for end in (point.lower, point.upper)
        )
        tip = f"{date_of(point.day)}: {form(point.effect)}, {ends_text}, {point.units:,} sessions"
        parts.append(
            f'<circle class="point" cx="{x(i):.1f}" cy="{y(point.effect):.1f}" r="3">'
            f"<title>{escape(tip)}</title></circle>"
        )
    parts += _dates([point.day for point in points], x, height - 12)
    tail = f"{form(last.effect)} with {last.units:,} sessions"
    return _svg(f"{series.metric}: cumulative effect by day, at last {tail}", width, height, parts)


def exposures_per_day(days: Sequence[Day], control: str, treatment: str) -> str:
    """Return new sessions of both arms per day, side by side."""
    left, right, top, bottom = 78, 16, 30, 34
    width, height = _WIDTH, 200
    most = max([max(day.control, day.treatment) for day in days] + [1])

    def x(index: int) -> float:
        return left + (width - left - right) * (index + 0.5) / len(days)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - value / (most * 1.05))

    slot = (width - left - right) / len(days)
    bar = min(22.0, slot * 0.38)
    parts = _grid(0.0, most * 1.05, y, left, width - right, lambda v: f"{v:,.0f}")
    for i, day in enumerate(days):
        for offset, css, n, name in (
            (-bar - 0.5, "a", day.control, control),
            (0.5, "b", day.treatment, treatment),
        ):
            parts.append(
                f'<rect class="arm-{css}" x="{x(i) + offset:.1f}" y="{y(n):.1f}" '
                f'width="{bar:.1f}" height="{y(0) - y(n):.1f}">'
                f"<title>{escape(f'{date_of(day.day)}: {n:,} new sessions in {name}')}</title>"
                "</rect>"
            )
    parts += _dates([day.day for day in days], x, height - 12)
    parts.append(_legend(left, control, treatment))
    return _svg("New sessions per day and arm", width, height, parts)


def _legend(left: float, control: str, treatment: str) -> str:
    second = left + 24 + 7.5 * len(control) + 24
    return (
        f'<rect class="arm-a" x="{left}" y="6" width="12" height="12"/>'
        f'<text x="{left + 18}" y="16">{escape(control)}</text>'
        f'<rect class="arm-b" x="{second:.0f}" y="6" width="12" height="12"/>'
        f'<text x="{second + 18:.0f}" y="16">{escape(treatment)}</text>'
    )


def _grid(
    low: float, high: float, y: Callable[[float], float], left: float, right: float, form: Format
) -> list[str]:
    return [
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">'
        f"{escape(form(tick))}</text>"
        for tick in _ticks(low, high)
    ]


def _dates(days: Sequence[int], x: Callable[[int], float], y: float) -> list[str]:
    """Return labels for as many days as fit, the last one always."""
    step = max(1, math.ceil(len(days) / 7))
    return [
        f'<text class="tick" x="{x(i):.1f}" y="{y}" text-anchor="middle">{date_of(day)[5:]}</text>'
        for i, day in enumerate(days)
        if (len(days) - 1 - i) % step == 0
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Return round values inside a range: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / _MAX_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _svg(
    title: str, width: float, height: float, parts: Sequence[str], *, fixed: bool = False
) -> str:
    size = f'width="{width:g}" height="{height:g}"' if fixed else f'style="max-width:{width:g}px"'
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" {size} role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
