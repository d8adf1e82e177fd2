"""What can be wrong with a prior."""

from experiments.evaluation.errors import EvaluationError


class PriorError(EvaluationError):
    """A file is no prior, or does not fit the profile or the model that it is used with."""
