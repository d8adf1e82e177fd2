"""Small charts as SVG text: they take their colours from the page, so they fit light and dark."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH = 720


class Bar(NamedTuple):
    """A share with its interval."""

    label: str
    value: float
    lower: float | None
    upper: float | None
    note: str
    """Shown at the end of the row."""


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Return horizontal bars from 0 to 100 % with interval whiskers."""
    left, right, row_height = 200, 110, 22
    span = _WIDTH - left - right
    height = row_height * len(rows) + 30
    parts = [
        f'<line class="grid" x1="{left + span * t / 4:.1f}" x2="{left + span * t / 4:.1f}" '
        f'y1="0" y2="{height - 24}"/><text class="tick" x="{left + span * t / 4:.1f}" '
        f'y="{height - 8}" text-anchor="middle">{25 * t} %</text>'
        for t in range(5)
    ]
    for i, row in enumerate(rows):
        y = i * row_height + 4
        middle = y + 7
        parts.append(
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(row.label)}</text>'
            f'<rect class="bar" x="{left}" y="{y}" width="{span * row.value:.1f}" height="14"/>'
            f'<text class="tick" x="{_WIDTH - 4}" y="{middle + 4}" text-anchor="end">'
            f"{escape(row.note)}</text>"
        )
        if row.lower is not None and row.upper is not None:
            x1, x2 = left + span * row.lower, left + span * row.upper
            parts.append(
                f'<path class="whisker" d="M{x1:.1f} {middle - 4}v8M{x1:.1f} {middle}H{x2:.1f}'
                f'M{x2:.1f} {middle - 4}v8"/>'
            )
    return _svg(title, _WIDTH, height, parts)


class Line(NamedTuple):
    """A series of points in the unit square."""

    label: str
    css: str
    points: Sequence[tuple[float, float]]
    weights: Sequence[int]
    """Sizes of the dots: answers behind each."""


def reliability(title: str, lines: Sequence[Line]) -> str:
    """Return accuracy against probability, with the diagonal of a perfectly calibrated model."""
    side, left, top = 320, 60, 10
    parts = [
        f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>',
        f'<path class="diagonal" d="M{left} {top + side}L{left + side} {top}"/>',
    ]
    for t in range(0, 101, 25):
        at = side * t / 100
        parts.append(
            f'<text class="tick" x="{left + at:.1f}" y="{top + side + 18}" '
            f'text-anchor="middle">{t / 100:g}</text><text class="tick" x="{left - 8}" '
            f'y="{top + side - at + 4:.1f}" text-anchor="end">{t / 100:g}</text>'
        )
    parts.append(
        f'<text x="{left + side / 2}" y="{top + side + 38}" text-anchor="middle">'
        f'probability of the intent</text><text transform="rotate(-90)" x="{-top - side / 2}" '
        'y="16" text-anchor="middle">share of right answers</text>'
    )
    for index, line in enumerate(lines):
        spots = [(left + side * x, top + side * (1 - y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        if path:
            parts.append(f'<path class="line {line.css}" d="M{path}"/>')
        most = max(line.weights, default=1)
        parts += [
            f'<circle class="dot {line.css}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{2.5 + 5 * (weight / most) ** 0.5:.1f}"/>'
            for (x, y), weight in zip(spots, line.weights, strict=True)
        ]
        y = top + 20 + 22 * index
        parts.append(
            f'<circle class="dot {line.css}" cx="{left + side + 26}" cy="{y - 4}" r="5"/>'
            f'<text x="{left + side + 38}" y="{y}">{escape(line.label)}</text>'
        )
    return _svg(title, _WIDTH, side + 60, parts)


def heatmap(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix: rows are the truth, shades are shares of their row."""
    cell, left, top = 18, 180, 160
    size = cell * len(labels)
    parts = []
    for i, row in enumerate(counts):
        total = sum(row)
        y = top + cell * i
        parts.append(
            f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(labels[i])}</text>'
            f'<text transform="rotate(-60 {left + cell * i + 12} {top - 6})" '
            f'x="{left + cell * i + 12}" y="{top - 6}">{escape(labels[i])}</text>'
        )
        for j, count in enumerate(row):
            if not count:
                continue
            share = count / total
            css = "hit" if i == j else "miss"
            tip = f"{labels[i]} taken for {labels[j]}: {count} of {total}"
            parts.append(
                f'<rect class="{css}" x="{left + cell * j}" y="{y}" width="{cell - 1}" '
                f'height="{cell - 1}" fill-opacity="{0.12 + 0.88 * share:.2f}">'
                f"<title>{escape(tip)}</title></rect>"
            )
            if i != j:
                parts.append(
                    f'<text class="count" x="{left + cell * j + 8.5}" y="{y + 12}" '
                    f'text-anchor="middle">{count}</text>'
                )
    parts.append(f'<rect class="frame" x="{left}" y="{top}" width="{size}" height="{size}"/>')
    return _svg(title, left + size + 110, top + size + 6, parts)


def histogram(title: str, values: Sequence[float], marks: Sequence[tuple[str, float]]) -> str:
    """Return how often which latency occurred, with marked percentiles.

    Args:
        title: Read out by screen readers.
        values: Seconds; the axis ends a little after the last mark.
        marks: Names and seconds of percentiles.
    """
    left, span, base, n_bins = 20, _WIDTH - 40, 150, 48
    end = max([second for _, second in marks] + [1e-6]) * 1.15
    counts = [0] * n_bins
    for value in values:
        counts[min(n_bins - 1, int(value / end * n_bins))] += 1
    most = max([*counts, 1])
    width = span / n_bins
    parts = [
        f'<rect class="bar" x="{left + width * i:.1f}" y="{base - 120 * count / most:.1f}" '
        f'width="{width - 1:.1f}" height="{120 * count / most:.1f}"/>'
        for i, count in enumerate(counts)
    ]
    parts.append(f'<line class="frame" x1="{left}" x2="{left + span}" y1="{base}" y2="{base}"/>')
    for i, (name, second) in enumerate(marks):
        x = left + span * second / end
        parts.append(
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="{base}"/>'
            f'<text class="tick" x="{x:.1f}" y="{base + 16 + 15 * (i % 2)}" text-anchor="middle">'
            f"{escape(name)} {second:.3g} s</text>"
        )
    return _svg(title, _WIDTH, base + 40, parts)


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width:g}px">{"".join(parts)}</svg>'
    )
