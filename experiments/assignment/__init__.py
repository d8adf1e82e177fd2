"""Deterministic assignment of units to variants: pure, and the same wherever it is computed."""

from experiments.assignment.allocation import (
    Allocation,
    Assignment,
    Layout,
    Range,
    assign,
    moved_units,
)
from experiments.assignment.buckets import N_BUCKETS, Hash, bucket_of, variant_bucket

__all__ = [
    "N_BUCKETS",
    "Allocation",
    "Assignment",
    "Hash",
    "Layout",
    "Range",
    "assign",
    "bucket_of",
    "moved_units",
    "variant_bucket",
]
