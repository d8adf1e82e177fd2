"""What stops an analysis before there is anything to decide."""


class AnalysisError(Exception):
    """Base; the message says what is wrong and what to do."""


class UnknownExperiment(AnalysisError):
    """The experiment, version, variant or phase is not in the log or not declared."""


class UnreadableLog(AnalysisError):
    """The event file is missing, damaged, or of another version."""


class NothingToCompare(AnalysisError):
    """The data allows no comparison at all, for instance because one arm has no traffic."""
