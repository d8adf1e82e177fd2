"""Experiments whose split follows their results: what to give new units next, and when to stop."""
