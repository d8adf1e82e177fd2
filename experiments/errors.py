"""What errors for people have in common."""


class GuidedError(Exception):
    """Says what happened and what to do about it; the base of this package's error trees.

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
