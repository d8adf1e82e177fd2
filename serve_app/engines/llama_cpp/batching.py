"""How many rows a step gets, and for whom: arithmetic on learned costs, without any state.

Three questions, each with a function of its own: how many of the decoding requests go together
(`group`), how many guessed rows pay for themselves beside them (`spare_rows`), and how many prompt
rows fit (`prompt_rows`).
"""

from collections.abc import Sequence
from itertools import accumulate

from serve_app.engines.llama_cpp.row_costs import RowCosts

_MIN_GAIN = 1.04
"""Advantage in tokens per second from which an unusual batch is chosen: costs are estimates."""
_TARGET_S = 0.15
"""Longest step to aim at while answers run: their next token waits for it."""
_TARGET_ALONE_S = 0.35
"""The same while only prompts are computed: a cancelled request leaves after the step."""
_LONGEST_S = 0.6
"""Longest step to accept for the sake of a whole tile."""
_CROWDED_S = 1.0
"""Longest step to aim at, however many requests wait for their first token."""
_FIRST_ROWS = 64
_MIN_ROWS = 16
_BLOCK, _LARGE_BLOCK = 4, 16
"""Rows that matrix kernels take at once."""
_TILE = 64
"""Rows from which llama.cpp computes attention in tiles. Measured with 1.2B parameters and 600
tokens of context on two cores: 48 rows take 476 ms, 64 rows 518 ms."""
MAX_BLANK_ROWS = 16
MAX_GUESSED_ROWS = 64
"""Guessed rows of a step at most; more of them save hardly any steps."""


def group(costs: RowCosts, rows: Sequence[int]) -> int:
    """Return how many of the decoding requests to compute together, from the first on.

    Args:
        costs: Learned costs.
        rows: Rows that each request needs, those that waited longest first; at least one.
    """
    everybody = len(rows)
    best, best_rate = everybody, _rate(costs, everybody, sum(rows)) * _MIN_GAIN
    total = 0
    for n, one in enumerate(rows[:-1], start=1):
        total += one
        rate = _rate(costs, n, total)
        if rate > best_rate:
            best, best_rate = n, rate
    return best


def _rate(costs: RowCosts, n_tokens: float, n_rows: int) -> float:
    seconds = costs.decode_s(n_rows)
    return n_tokens / seconds if seconds else 0.0


def spare_rows(costs: RowCosts, n_jobs: int, n_rows: int, chances: Sequence[float]) -> int:
    """Return how many more rows the step should have, guesses first and blanks behind them.

    Args:
        costs: Learned costs.
        n_jobs: Requests in the step; each gains a token for certain.
        n_rows: Rows that they need.
        chances: Probability of each guessed row to be right, best first.
    """
    best, best_rate = 0, _rate(costs, n_jobs, n_rows) * _MIN_GAIN
    gains = list(accumulate(chances[:MAX_GUESSED_ROWS], initial=float(n_jobs)))
    n_guesses = len(gains) - 1
    few, many = range(1, MAX_BLANK_ROWS + 1), range(MAX_BLANK_ROWS + _BLOCK, n_guesses, _BLOCK)
    for extra in (*few, *many, n_guesses):
        rate = _rate(costs, gains[min(extra, n_guesses)], n_rows + extra)
        if rate > best_rate:
            best, best_rate = extra, rate
    return best


def prompt_rows(
    costs: RowCosts,
    n_decode_rows: int,
    *,
    max_rows: int,
    n_answers: int = 0,
    n_waiting: int = 0,
    blocks: bool = True,
) -> int:
    """Return how many prompt rows fit beside decode rows, in whole blocks where possible.

    A long step costs every running answer a wait, a short one costs all who wait for their first
    token: prompts in small pieces take up to twice as long. So a step may be the longer, the more
    requests wait for each answer that runs.

    Args:
        costs: Learned costs.
        n_decode_rows: Rows of running answers in the same step.
        max_rows: Rows left in the batch.
        n_answers: Answers that those rows belong to.
        n_waiting: Requests that have no first token yet.
        blocks: Whether the step is rounded to the kernels' blocks.
    """
    row_s = costs.prompt_row_s
    if row_s is None:
        return min(_FIRST_ROWS, max_rows)
    decode_s = costs.decode_s(n_decode_rows) or 0.0
    # One prompt alone changes nothing: streams that run come first.
    crowd = 1.0 + max(0, n_waiting - 1) / max(1, n_answers)
    longest_s = min(_LONGEST_S * crowd, _CROWDED_S)
    target_s = _TARGET_S if n_decode_rows else _TARGET_ALONE_S
    left_s = min(target_s * crowd, _CROWDED_S) - decode_s
    rows = max(_MIN_ROWS, int(left_s / row_s))
    if blocks:
        total = n_decode_rows + rows
        if total >= _TILE:
            rows -= total % _TILE
        elif decode_s + (_TILE - n_decode_rows) * row_s <= longest_s and n_decode_rows < _TILE:
            rows = _TILE - n_decode_rows
        else:
            rows -= total % (_LARGE_BLOCK if rows > _LARGE_BLOCK else _BLOCK)
    return max(1, min(rows, max_rows))
