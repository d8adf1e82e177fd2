"""What can go wrong with the files of a controller that moves a split."""

from experiments.errors import GuidedError


class SteeringError(GuidedError):
    """The folder of a controller cannot be used."""


class ControllerBusy(SteeringError):
    """Another controller is at work."""


class NothingYet(SteeringError):
    """No controller has begun."""
