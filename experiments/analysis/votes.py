"""Feedback as a measure: every session counts once, by the mean of the votes that count.

Of the votes on one answer (or session) and metric the last one counts. Votes on answers are joined
with the session through the answer's outcome, votes on sessions directly.
"""

from dataclasses import replace

from experiments.analysis.keys import DAY
from experiments.analysis.log import Log, Scope
from experiments.analysis.pieces import Task
from experiments.analysis.sums import Cell, Clock, Counts, cells_of
from experiments.analysis.survey import survey


def aggregate_votes(log: Log, scope: Scope, metric: str, *, key: str = DAY) -> list[Cell]:
    """Return the sums of a feedback metric; x is the session's mean vote, y is 1.

    Args:
        log: The event file.
        scope: What is analysed.
        metric: Name of the feedback metric.
        key: One of `keys`, as for the outcomes.
    """
    task = Task(
        scope.experiment, scope.version, until=None, votes=(metric,), keys=(key,), settled=0.0
    )
    found = cells_of(survey(log, task).cells, scope, Clock(now=0.0, settled=0.0), key=key)
    # Sessions without a vote are counted where the outcomes are.
    return [replace(cell, counts=Counts()) for cell in found if cell.moments[metric].n]
