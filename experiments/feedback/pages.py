"""The feedback report as Markdown and as one HTML page that needs nothing else."""

from collections.abc import Sequence
from html import escape

from experiments.feedback.tables import Bar, Flag, Section

_SHORT = 30
"""Characters that a table cell keeps in one line."""
_BAR_LEFT, _BAR_WIDTH = 40, 150
"""Of a bar in pixels: room for the end of the scale, and its length."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --paper: #fff; --faint: #5b6875;
  --line: #d9dfe5; --bar: #2563a8; --track: #e3e8ed; --flag: #b92c2c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --paper: #14191f; --faint: #9aa7b4;
  --line: #303a44; --bar: #7db4ee; --track: #2a333c; --flag: #f58080; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { color: var(--faint); margin: .2rem 0 .6rem; max-width: 46rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; font-size: .87rem; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
td b { color: var(--flag); } td svg { display: block; margin-top: .2rem; }
svg text { fill: var(--faint); font-size: 11px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { color: var(--faint); } dd { margin: 0; }
"""


def to_markdown(title: str, head: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return the report as Markdown.

    Args:
        title: Heading.
        head: Numbers to see first.
        sections: Tables.
    """
    parts = [f"# {_plain(title)}", "", *(f"- {name}: {_plain(value)}" for name, value in head)]
    for section in sections:
        parts += ["", f"## {section.title}", "", section.note, ""]
        if not section.rows:
            parts.append(section.empty)
            continue
        keep = [i for i, name in enumerate(section.columns) if name]  # bars have no name
        parts.append("| " + " | ".join(section.columns[i] for i in keep) + " |")
        parts.append("| " + " | ".join("---" for _ in keep) + " |")
        for row in section.rows:
            parts.append("| " + " | ".join(_plain(str(row[i])) for i in keep) + " |")
    return "\n".join(parts) + "\n"


def to_html(title: str, head: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return the report as one page, for light and dark; the arguments are those of Markdown."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in head)
    body = "".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1><dl>{facts}</dl>{body}</body></html>\n"
    )


def _section(section: Section) -> str:
    opening = f"<section><h2>{escape(section.title)}</h2><p>{escape(section.note)}</p>"
    if not section.rows:
        return f"{opening}<p><em>{escape(section.empty)}</em></p></section>"
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.columns)
    rows = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in section.rows)
    return (
        f'{opening}<div class="scroll"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _cell(cell: str | Bar) -> str:
    match cell:
        case Bar():
            return f"<td>{_bar(cell)}</td>"
        case Flag():
            return f"<td><b>{escape(cell)}</b></td>"
    opening = '<td class="text">' if len(cell) > _SHORT else "<td>"
    return f"{opening}{escape(cell)}</td>"


def _bar(bar: Bar) -> str:
    """Return the interval as a line with a dot at the estimate, between the ends of its scale."""

    def at(value: float) -> float:
        share = (min(max(value, bar.low), bar.high) - bar.low) / (bar.high - bar.low)
        return _BAR_LEFT + 4 + (_BAR_WIDTH - 8) * share

    label = f"{bar.estimate:.3f}, interval {bar.lower:.3f} to {bar.upper:.3f}"
    right = _BAR_LEFT + _BAR_WIDTH
    mark = ""
    if bar.mark is not None:
        x = f"{at(bar.mark):.1f}"
        mark = f'<line x1="{x}" x2="{x}" y1="1" y2="15" stroke="var(--faint)"/>'
    return (
        f'<svg width="{right + _BAR_LEFT}" height="16" role="img" aria-label="{label}">'
        f'<text x="{_BAR_LEFT - 6}" y="12" text-anchor="end">{bar.low:.2g}</text>'
        f'<text x="{right + 6}" y="12">{bar.high:.2g}</text>'
        f'<rect x="{_BAR_LEFT}" y="6" width="{_BAR_WIDTH}" height="4" rx="2" fill="var(--track)"/>'
        f'{mark}<line x1="{at(bar.lower):.1f}" x2="{at(bar.upper):.1f}" y1="8" y2="8" '
        'stroke="var(--bar)" stroke-width="4"/>'
        f'<circle cx="{at(bar.estimate):.1f}" cy="8" r="4.5" fill="var(--bar)"/></svg>'
    )


def _plain(text: str) -> str:
    """Return text that cannot break a Markdown table or smuggle HTML into it."""
    escaped = escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(escaped.split())
