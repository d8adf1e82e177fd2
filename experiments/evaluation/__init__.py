"""Evaluation: what is asked of a model, how its answers are judged, and the report about it."""
