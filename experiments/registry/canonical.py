"""Canonical JSON of the registry's records: equal data, equal bytes, one hash."""

import hashlib
import json
from collections.abc import Mapping


def canonical_json(document: Mapping[str, object]) -> str:
    """Return JSON with sorted keys and no spaces; text stays UTF-8.

    Raises:
        ValueError: If a number is not finite.
    """
    return json.dumps(
        document, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


def canonical_sha256(document: Mapping[str, object]) -> str:
    """Return the SHA-256 of the canonical JSON, hexadecimal."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()
