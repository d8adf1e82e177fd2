"""What a step costs by its number of rows, measured: the basis of every choice about batches.

The cost is no straight line. Matrix kernels take rows in blocks, so that on one CPU 16 rows are
cheaper than 14, and two steps of 4 cheaper than one of 8; another CPU has other steps. So a short
calibration at load fills a table, and every later step corrects it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

_WEIGHT, _WEIGHT_DOWN = 0.1, 0.5
"""Weight of the newest measurement in the moving averages; one that is faster than known counts
more, because other work on the machine can only make a step slower."""
_OUTLIER = 3.0
"""A step this many times slower than known says something about the machine, not about rows; it is
counted as this slow at most."""
MAX_DECODE_ROWS = 160
"""Larger steps are prefill for the most part; answers and their guesses are fewer rows."""
CALIBRATED_ROWS = (1, 16, 4, 8, 2, 6, 12, 7, 3, 14, 5, 10, 24, 32)
"""In the order of their use, for the case that time runs out."""
LARGE_ROWS = (48, 64, 96, 128)
"""Tried last: only with small models do answers and their guesses fill such steps."""
_TWICE = (1, 2, 4, 16)
"""What one answer by itself, and a crowd, choose between. A process's first second can be eight
times slower than the rest, and what seems dear is hardly ever asked for again: 12 instead of 18
tokens/s for one answer, seen in most starts with 1.2B parameters. So their second try does not
depend on the time."""


class RowCosts:
    """Seconds per step, learned. Used by the engine thread only."""

    def __init__(self) -> None:
        self._decode: dict[int, float] = {}
        self._known: list[int] = []
        self._prompt_row_s: float | None = None

    @property
    def prompt_row_s(self) -> float | None:
        """Seconds per prompt row in a large step; None before the first."""
        return self._prompt_row_s

    def adopt(self, other: "RowCosts") -> None:
        """Begin with what was measured elsewhere, on the same weights."""
        self._decode = dict(other._decode)
        self._known = list(other._known)
        self._prompt_row_s = other._prompt_row_s

    def record(self, n_rows: int, n_outputs: int, seconds: float) -> None:
        """Learn from a step.

        Args:
            n_rows: Rows of the batch, >= 1.
            n_outputs: Rows among them with logits.
            seconds: How long it took.
        """
        if n_rows <= MAX_DECODE_ROWS and 2 * n_outputs >= n_rows:
            self._learn(n_rows, seconds)
        elif n_rows - n_outputs >= 16:
            others = self.decode_s(n_outputs) if n_outputs else None
            row_s = max(seconds - (others or 0.0), 0.1 * seconds) / (n_rows - n_outputs)
            known = self._prompt_row_s
            self._prompt_row_s = row_s if known is None else known + 0.3 * (row_s - known)

    def decode_s(self, n_rows: int) -> float | None:
        """Return the expected seconds of a step of decode rows; None if nothing is known.

        Between two known numbers it is the straight line, beyond the last one proportional.
        """
        if n_rows < 1 or not self._known:
            return None
        exact = self._decode.get(n_rows)
        if exact is not None:
            return exact
        at = bisect_left(self._known, n_rows)
        if at == len(self._known):
            last = self._known[-1]
            return self._decode[last] * n_rows / last
        if at == 0:  # fewer rows than ever measured are not cheaper than their share
            return self._decode[self._known[0]]
        low, high = self._known[at - 1], self._known[at]
        share = (n_rows - low) / (high - low)
        return (1 - share) * self._decode[low] + share * self._decode[high]

    def _learn(self, n_rows: int, seconds: float) -> None:
        known = self._decode.get(n_rows)
        if known is None:
            self._decode[n_rows] = seconds
            self._known = sorted(self._decode)
        else:
            weight = _WEIGHT if seconds > known else _WEIGHT_DOWN
            self._decode[n_rows] = known + weight * (min(seconds, _OUTLIER * known) - known)


def calibrate(
    costs: RowCosts,
    step: Callable[[int], float],
    *,
    max_rows: int,
    budget_s: float,
    rows: Sequence[int] = CALIBRATED_ROWS,
    large: Sequence[int] = LARGE_ROWS,
) -> None:
    """Measure steps of several sizes, the most telling first, until the time is used up.

    The sizes that matter most are tried twice, whatever it takes.

    Args:
        costs: Where results go.
        step: Computes so many decode rows and returns the seconds it took.
        max_rows: Largest step allowed.
        budget_s: Time for all; the step that it ends in, and second tries, may go beyond it.
        rows: Sizes to try.
        large: Sizes to try with the time that is left.
    """
    left_s = budget_s - step(1)  # the first step of all also faults the weights in
    tries: dict[int, list[float]] = {}
    # Two rounds: what disturbs the machine for a moment shall not spoil both tries of a size.
    for n_rows in (*rows, *rows, *large, *large):
        if n_rows <= max_rows and left_s > 0:
            seconds = step(n_rows)
            left_s -= seconds
            tries.setdefault(n_rows, []).append(seconds)
    for n_rows in _TWICE:
        while n_rows <= max_rows and n_rows in rows and len(tries.get(n_rows, ())) < 2:
            tries.setdefault(n_rows, []).append(step(n_rows))
    for n_rows, found in tries.items():
        costs.record(n_rows, n_rows, min(found))
