"""What can be wrong with a suite, a model to measure, or a folder of results."""

from experiments.errors import GuidedError


class EvaluationError(GuidedError):
    """Base of all errors of an evaluation."""


class BadInput(EvaluationError):
    """A file that was given cannot be used as it is."""


class TargetUnavailable(EvaluationError):
    """The model to measure cannot be reached or opened."""


class MissingExtra(EvaluationError):
    """A feature needs packages that are not installed.

    Args:
        feature: What was asked for.
        extra: The extra of carril that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that are not installed",
            f"pip install 'carril[{extra}]'",
        )


class TargetDenied(EvaluationError):
    """The server wants another key."""
