"""Synthetic Dominican Spanish conversations, the same bytes on every machine."""
