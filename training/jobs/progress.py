"""Progress of a training on a terminal: a bar with the time left; elsewhere plain lines."""

import os
import re
import sys
from typing import NamedTuple, TextIO

_BAR_WIDTH = 24
_PART = re.compile(r"(?P<what>[a-z][a-z ]*?) (?P<done>[\d,]+)/(?P<total>[\d,]+)\b(?P<rest>.*)")
_LOSS = re.compile(r"\bloss (?P<value>-?\d+(?:\.\d+)?)")
_TOKENS = re.compile(r"(?P<value>[\d,]+) tokens/s")
_LEFT = re.compile(r"(?P<value>[\d,]+) s left")


class Part(NamedTuple):
    """A line of progress that says how much of a whole is done."""

    what: str
    done: int
    total: int
    rest: str

    @property
    def metrics(self) -> dict[str, float]:
        """Figures that the line has, by the name under which a tracking store keeps them."""
        found = {"loss": _LOSS, "tokens_per_second": _TOKENS, "eta_s": _LEFT}
        matches = {name: pattern.search(self.rest) for name, pattern in found.items()}
        return {
            name: float(match["value"].replace(",", "")) for name, match in matches.items() if match
        }


def parse(line: str) -> Part | None:
    """Read `step 40/300  loss 0.71  2,100 tokens/s  180 s left`; None for other lines."""
    match = _PART.match(line)
    if match is None:
        return None
    done, total = (int(match[name].replace(",", "")) for name in ("done", "total"))
    return Part(match["what"], done, total, match["rest"].strip())


class ProgressView:
    """Shows lines of progress.

    Args:
        stream: Where to; progress is no data, so stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._animated = self._stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self._bar_shown = False

    def show(self, line: str) -> None:
        """Show one line; on a terminal lines of one part redraw a bar."""
        part = parse(line) if self._animated else None
        if part is not None:
            self._redraw(part)
            return
        if self._bar_shown:
            self._stream.write("\n")
            self._bar_shown = False
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _redraw(self, part: Part) -> None:
        share = min(1.0, part.done / max(part.total, 1))
        filled = int(_BAR_WIDTH * share)
        bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
        text = f"{part.what} [{bar}] {share:4.0%}  {part.done}/{part.total}  {part.rest}"
        width = os.get_terminal_size(self._stream.fileno()).columns
        self._stream.write("\r\x1b[2K" + text[: max(width - 1, 20)])
        self._stream.flush()
        self._bar_shown = True
