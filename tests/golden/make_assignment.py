"""Write `assignment.json`: buckets computed from the definition, not with the package.

The definition: SHA-256 over `<length>:<bytes>` of domain, salt and unit in UTF-8; the first eight
bytes as a big-endian number, modulo 10,000. Run: `python tests/golden/make_assignment.py`.
"""

import hashlib
import json
from pathlib import Path

UNITS = ["1", "user-42", "yipeta", "niño", "👍", "a" * 512, " ", "0", "x/y", "1:a"]
SALTS = ["okla-v1-v2", "s", ""]
DOMAINS = ["variant", "enrolment"]


def bucket(domain: str, salt: str, unit: str) -> int:
    """Return the bucket by the definition."""
    text = b""
    for part in (domain, salt, unit):
        data = part.encode()
        text += str(len(data)).encode() + b":" + data
    return int(hashlib.sha256(text).hexdigest()[:16], 16) % 10_000


if __name__ == "__main__":
    cases = [
        {"unit": unit, "salt": salt, "domain": domain, "bucket": bucket(domain, salt, unit)}
        for unit in UNITS
        for salt in SALTS
        for domain in DOMAINS
    ]
    target = Path(__file__).with_name("assignment.json")
    target.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")
