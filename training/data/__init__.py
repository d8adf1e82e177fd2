"""Synthetic Dominican Spanish conversations of a vehicle marketplace, the same bytes on every machine."""
