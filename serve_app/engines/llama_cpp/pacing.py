"""How many prompt rows a step may take, learned from the steps before."""

_TARGET_S = 0.15
"""Longest step to aim at: running streams and cancellations wait for the step they are in."""
_MIN_ROWS = 32
_FIRST_ROWS = 64
_WEIGHT = 0.3
"""Weight of the newest measurement in the moving average."""


class PrefillPace:
    """Keeps steps short by bounding their prompt rows.

    Args:
        max_rows: Rows of a batch.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._row_s: float | None = None

    @property
    def rows(self) -> int:
        """Prompt rows for the next step."""
        if self._row_s is None:
            return min(_FIRST_ROWS, self._max_rows)
        return max(
            min(_MIN_ROWS, self._max_rows), min(self._max_rows, int(_TARGET_S / self._row_s))
        )

    def record(self, n_rows: int, step_s: float) -> None:
        """Learn from a step. Small ones say little about the cost of a row and are skipped."""
        if n_rows < _MIN_ROWS:
            return
        row_s = max(step_s, 1e-6) / n_rows
        self._row_s = (
            row_s if self._row_s is None else (1 - _WEIGHT) * self._row_s + _WEIGHT * row_s
        )
