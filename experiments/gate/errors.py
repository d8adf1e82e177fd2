"""Why the gate judges nothing: what it was given cannot be compared or trusted."""

from experiments.evaluation.errors import EvaluationError


class GateError(EvaluationError):
    """Base of the gate's own errors; message and fix as in every error of an evaluation."""


class BadPolicy(GateError):
    """The policy cannot be read or breaks a rule."""


class NotComparable(GateError):
    """The two runs did not answer the same items, or one of them is no model file."""


class AlteredModel(GateError):
    """The model file is not the one that was evaluated."""
