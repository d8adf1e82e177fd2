"""The hash of the events that an analysis used, so that evidence can be matched with its log."""

from experiments.analysis.log import Log
from experiments.analysis.measures import OUTCOME_MEASURES
from experiments.analysis.pieces import Task
from experiments.analysis.survey import survey


def events_sha256(log: Log, experiment: str, version: int) -> str:
    """Return the SHA-256 of all events that the analysis of an experiment's version may read.

    Exposures, conflicts and outcomes of the version and the numeric votes that count on them, each
    in the order of its key, as bytes that depend on nothing but the values: a hash per piece of
    25,000 units, and the hash of these.

    Args:
        log: The event file.
        experiment: Its name.
        version: Its version.
    """
    task = Task(experiment, version, until=None, measures=tuple(OUTCOME_MEASURES), digest=True)
    return survey(log, task).events_sha256
