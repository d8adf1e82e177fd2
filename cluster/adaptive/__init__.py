"""Moves the splits of adaptive experiments by their results."""
