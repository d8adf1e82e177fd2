"""What can go wrong with a canary's files."""


class CanaryError(Exception):
    """A canary cannot go on.

    Args:
        message: What happened.
        fix: What to do about it.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return self.message


class CanaryBusy(CanaryError):
    """Another controller drives this canary."""


class NoCanary(CanaryError):
    """There is no canary of that name."""
