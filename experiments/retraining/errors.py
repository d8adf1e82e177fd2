"""What can be wrong with the records of the retraining loop."""


class RetrainingError(Exception):
    """Base of all errors of the loop.

    Args:
        message: What happened, with the value.
        fix: What to do about it; None where the message says it all.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return self.message


class BadRecord(RetrainingError):
    """A file that was given, or that the loop wrote, cannot be used as it is."""


class UnknownModel(BadRecord):
    """No registered model of that name, or more than one and none was named."""


class Blocked(RetrainingError):
    """The data may be contaminated, or nothing is approved; no dataset is made."""
