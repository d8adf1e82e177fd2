"""What can be wrong with the records of the retraining loop."""

from experiments.errors import GuidedError


class RetrainingError(GuidedError):
    """Base of all errors of the loop."""


class BadRecord(RetrainingError):
    """A file that was given, or that the loop wrote, cannot be used as it is."""


class UnknownModel(BadRecord):
    """No registered model of that name, or more than one and none was named."""


class Blocked(RetrainingError):
    """The data may be contaminated, or nothing is approved; no dataset is made."""
