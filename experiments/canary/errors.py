"""What can go wrong with a canary's files."""

from experiments.errors import GuidedError


class CanaryError(GuidedError):
    """A canary cannot go on."""


class CanaryBusy(CanaryError):
    """Another controller drives this canary."""


class NoCanary(CanaryError):
    """There is no canary of that name."""
