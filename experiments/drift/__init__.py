"""Drift: whether live traffic still looks like the reference that a model was accepted with."""
