"""The answers of a piece of the log, and what each measure adds up of them per session.

A measure is two numbers per session, x and y; `measures` says what is made of them.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.analysis.columns import Coded, Flags, Floats, Ints, coded, floats, integers
from experiments.analysis.measures import LONGEST_S

OK, ERROR, ABORTED, SHARED = 1, 2, 4, 8
"""How an answer ended, and whether it was a cache hit or a join, in one number: texts cost more to
read than all else."""

_MORE = {"ttft": "ttft_s", "completion_tokens": "completion_tokens", "confidence": "confidence"}
"""Columns that only one measure needs, by its name."""


def columns_of(measures: Collection[str]) -> tuple[str, ...]:
    """Return the columns that these measures need beside those that are always read."""
    return tuple(column for measure, column in _MORE.items() if measure in measures)


class Answers(NamedTuple):
    """Enrolled requests, one a row, in the order of their sessions."""

    session: Ints
    """Row of the session."""
    variant: Coded
    """Who answered."""
    ok: Flags
    error: Flags
    aborted: Flags
    shared: Flags
    """Cache hits and joins: somebody else's request paid for them."""
    finished_at: Floats
    duration_s: Floats
    more: dict[str, Floats]
    """What only some measures need: `columns_of` them."""

    @classmethod
    def of(cls, outcomes: pa.Table, session: Ints) -> "Answers":
        """Return the answers whose session is there.

        Args:
            outcomes: Columns of a piece.
            session: Row of each one's session, -1 where there is none.
        """
        if (session < 0).any():
            outcomes = outcomes.filter(pa.array(session >= 0))
            session = session[session >= 0]
        flags = integers(outcomes["flags"])
        return cls(
            session=session,
            variant=coded(outcomes["variant"]),
            ok=flags & OK != 0,
            error=flags & ERROR != 0,
            aborted=flags & ABORTED != 0,
            shared=flags & SHARED != 0,
            finished_at=floats(outcomes["finished_at"]),
            duration_s=floats(outcomes["duration_s"]),
            more={
                name: floats(outcomes[name])
                for name in _MORE.values()
                if name in outcomes.column_names
            },
        )


def fresh(answers: Answers) -> Flags:
    """Return which answers the session's variant made for it: these have a latency and a cost."""
    return answers.ok & ~answers.shared & _within(answers.duration_s, LONGEST_S)


def per_session(measure: str, answers: Answers, n: int) -> tuple[Floats, Floats]:
    """Return x and y of every session.

    Args:
        measure: Name of a measure of outcomes, no quantile.
        answers: Of `n` sessions.
        n: Number of sessions.
    """
    return _SUMS[measure](answers, n)


def _within(values: Floats, longest: float) -> Flags:
    """Return which values lie between 0 and a bound; none does not."""
    found: Flags = (values >= 0) & (values <= longest)
    return found


def _count(answers: Answers, which: Flags, n: int) -> Floats:
    return np.bincount(answers.session[which], minlength=n).astype(np.float64)


def _shares(which: Callable[[Answers], Flags]) -> Callable[[Answers, int], tuple[Floats, Floats]]:
    """Return a measure: the requests of a kind, over all."""

    def pair(answers: Answers, n: int) -> tuple[Floats, Floats]:
        everything = np.ones(len(answers.session), dtype=bool)
        return _count(answers, which(answers), n), _count(answers, everything, n)

    return pair


def _sums(
    column: Callable[[Answers], Floats], which: Callable[[Answers], Flags]
) -> Callable[[Answers, int], tuple[Floats, Floats]]:
    """Return a measure: the sum of a column over some answers, and their number."""

    def pair(answers: Answers, n: int) -> tuple[Floats, Floats]:
        chosen = which(answers)
        values = column(answers)[chosen]
        x = np.bincount(answers.session[chosen], weights=values, minlength=n)
        return x.astype(np.float64), _count(answers, chosen, n)

    return pair


_SUMS: dict[str, Callable[[Answers, int], tuple[Floats, Floats]]] = {
    "errors": _shares(lambda a: a.error),
    "aborts": _shares(lambda a: a.aborted),
    "requests": _shares(lambda a: np.ones(len(a.session), dtype=bool)),
    "latency": _sums(lambda a: a.duration_s, fresh),
    "ttft": _sums(
        lambda a: a.more["ttft_s"], lambda a: fresh(a) & _within(a.more["ttft_s"], LONGEST_S)
    ),
    "completion_tokens": _sums(
        lambda a: a.more["completion_tokens"],
        lambda a: fresh(a) & _within(a.more["completion_tokens"], LONGEST_S),
    ),
    "confidence": _sums(
        lambda a: a.more["confidence"], lambda a: a.ok & _within(a.more["confidence"], 1.0)
    ),
}
