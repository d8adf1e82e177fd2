"""What can go wrong between data and a shipped model."""


class TrainingError(Exception):
    """Base of all errors of this package; the message is meant for the person at the terminal."""


class ConfigError(TrainingError):
    """The configuration cannot be used; fixing the file fixes it."""


class ExportError(TrainingError):
    """A model file could not be written as promised, for example with another quantisation type."""


class ArtefactError(TrainingError):
    """A file is missing or is not the one its manifest describes."""


class TrackingError(TrainingError):
    """The tracking store failed; what it was to record is done or undone all the same."""


class MissingExtraError(TrainingError):
    """A Python package of an optional extra is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(feature, package, extra)
        self.feature, self.package, self.extra = feature, package, extra

    def __str__(self) -> str:
        return (
            f"{self.feature} needs the package {self.package!r}. "
            f"Install it with: pip install 'carril[{self.extra}]'"
        )
