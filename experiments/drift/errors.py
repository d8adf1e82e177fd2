"""What can be wrong with drift's input."""


class DriftError(Exception):
    """Base of drift's errors.

    Args:
        message: What happened, with the value.
        fix: What to do about it; None where the message says it all.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return self.message if self.fix is None else f"{self.message}; {self.fix}"


class BadInput(DriftError):
    """A file or an option cannot be used as it is."""


class EventsUnavailable(DriftError):
    """The event file cannot be read."""


class NotEnoughData(DriftError):
    """There is too little traffic to say anything."""
