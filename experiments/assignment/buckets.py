"""The hash that gives every unit its place: 10,000 buckets, the same on every machine.

Domains keep decisions about the same unit independent of one another: who is held out says nothing
about who is enrolled, and that nothing about the variant.
"""

import hashlib
from enum import StrEnum

from experiments.assignment.growthbook import hash_v2

N_BUCKETS = 10_000
"""Buckets per decision; one bucket is 0.01 percentage points of traffic."""


class Hash(StrEnum):
    """How units are spread over the buckets of a split."""

    SHA256 = "sha256"
    GROWTHBOOK_V2 = "growthbook_v2"
    """For experiments whose units must get what GrowthBook's SDKs give them elsewhere."""


def bucket_of(unit: str, *, salt: str, domain: str = "variant") -> int:
    """Return the stable bucket of a unit, in 0..9999.

    SHA-256 rather than `hash()`, which is seeded per process and would break stickiness between
    replicas. The parts are length-prefixed, so no two different triples hash the same text.

    Args:
        unit: Randomisation unit, for us the session id. Not empty.
        salt: Seed of the split. A new salt reshuffles every unit.
        domain: What is decided: `variant`, `enrolment`, `layer`, `holdout`, ...

    Raises:
        ValueError: If `unit` is empty.
    """
    _check(unit)
    parts = (part.encode("utf-8", "surrogatepass") for part in (domain, salt, unit))
    digest = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()
    return int.from_bytes(digest[:8], "big") % N_BUCKETS


def variant_bucket(unit: str, *, salt: str, hash: Hash = Hash.SHA256) -> int:  # noqa: A002
    """Return the bucket that decides the variant of a unit, in 0..9999.

    Args:
        unit: Randomisation unit. Not empty.
        salt: Seed of the split.
        hash: The declared hash.

    Raises:
        ValueError: If `unit` is empty.
    """
    if hash is Hash.GROWTHBOOK_V2:
        _check(unit)
        return hash_v2(unit, seed=salt)
    return bucket_of(unit, salt=salt)


def _check(unit: str) -> None:
    if not unit:
        raise ValueError("unit is empty: a request without a session cannot be sticky")
