"""Progress of long set-up steps, on a terminal and in a log.

Standard library only: it is used before anything is installed. On a terminal a single line is
redrawn; elsewhere (CI, a file) a line appears for every ten percent, so that a log stays short and
still shows that work goes on.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

_BAR_WIDTH = 24
_LINE_EVERY_PERCENT = 10


class Progress:
    """One step with a known or unknown number of parts.

    Args:
        title: What is being done, in the present participle.
        stream: Where to write; messages go to stderr so that stdout stays data.
        clock: Monotonic seconds; replaced in tests.
    """

    def __init__(
        self,
        title: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._started_s = clock()
        self._animated = is_animated(self._stream)
        self._shown_percent = -1

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self._clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def update(self, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` parts are finished."""
        percent = 100 * done // max(total, 1)
        if self._animated:
            self._redraw(percent, detail)
            return
        step = percent - percent % _LINE_EVERY_PERCENT
        if step > self._shown_percent:
            self._shown_percent = step
            tail = f"  {detail}" if detail else ""
            self.say(f"{self._title}: {percent:3d} %  {self._elapsed()}{tail}")

    def finish(self, text: str) -> None:
        """Replace the bar by a closing line with the time it took."""
        self.say(f"{text} ({self._elapsed()})")

    def _redraw(self, percent: int, detail: str) -> None:
        filled = _BAR_WIDTH * percent // 100
        bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
        line = f"{self._title} [{bar}] {percent:3d} %  {self._elapsed()}  {detail}"
        width = os.get_terminal_size(self._stream.fileno()).columns if self._animated else 120
        self._stream.write("\r\x1b[2K" + line[: max(width - 1, 20)])
        self._stream.flush()

    def _clear(self) -> None:
        if self._animated:
            self._stream.write("\r\x1b[2K")

    def _elapsed(self) -> str:
        seconds = int(self._clock() - self._started_s)
        return f"{seconds // 60}:{seconds % 60:02d}"


def is_animated(stream: TextIO) -> bool:
    """Return whether a line may be redrawn: a terminal that understands control codes."""
    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
