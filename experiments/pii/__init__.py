"""Personal data in text: where it is, and the text without it."""

from experiments.pii.detect import Kind, Span, find
from experiments.pii.redact import Redactor, redact

__all__ = ["Kind", "Redactor", "Span", "find", "redact"]
