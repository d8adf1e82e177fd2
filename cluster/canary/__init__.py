"""Drives canaries, step by step."""
