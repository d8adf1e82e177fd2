"""What can be wrong with drift's input."""

from experiments.errors import GuidedError


class DriftError(GuidedError):
    """Base of drift's errors; as a text they have both, for logs of a job have one line."""

    def __str__(self) -> str:
        return self.message if self.fix is None else f"{self.message}; {self.fix}"


class BadInput(DriftError):
    """A file or an option cannot be used as it is."""


class EventsUnavailable(DriftError):
    """The event file cannot be read."""


class NotEnoughData(DriftError):
    """There is too little traffic to say anything."""
