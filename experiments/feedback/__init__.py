"""Feedback on answers: what may be said, which vote counts, what it tells, what trains from it."""
