"""Progress as lines, for logs: one for every tenth, with the time that is left."""

import time
from collections.abc import Callable

_LINE_EVERY_PERCENT = 10


class LineProgress:
    """Progress of one step.

    Args:
        title: What is being done, in the present participle.
        say: Shows a line.
        clock: Monotonic seconds; replaced in tests.
    """

    def __init__(
        self,
        title: str,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._say, self._clock = title, say, clock
        self._started_s: float | None = None
        self._shown = -1

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are finished, if a tenth is full."""
        now = self._clock()
        if self._started_s is None:
            self._started_s = now
        percent = 100 * done // max(total, 1)
        step = percent - percent % _LINE_EVERY_PERCENT
        if step <= self._shown:
            return
        self._shown = step
        left_s = (now - self._started_s) / max(done, 1) * (total - done)
        self._say(f"{self._title}: {percent:3d} %  {done}/{total}  {_clock_text(left_s)} left")


def _clock_text(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
