"""Verdicts: a pure function from evidence and policy to a decision with its reasons.

`evidence` and `policy` go in, `verdict.Decision` comes out of `engine.decide`; all are plain data
that `codec` writes as canonical JSON, so that a decision can be replayed bit for bit by someone who
does not trust it. `summary` reads aggregates from a file, `evaluate` turns them into evidence.
"""
