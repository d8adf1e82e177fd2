"""Version 2 of GrowthBook's hash: a unit gets here what GrowthBook's SDKs give it elsewhere.

The definition, from GrowthBook's SDKs (`gbhash` in `growthbook/core.py` of the Python SDK, `hash`
in `util.ts` of the JavaScript SDK, both MIT):

    n = (fnv1a_32(decimal text of fnv1a_32(seed + value)) mod 10000) / 10000

with FNV-1a of 32 bits: offset basis 0x811c9dc5, prime 0x01000193 (Fowler, Noll and Vo).

NOTE: SDKs disagree on texts beyond ASCII: JavaScript takes UTF-16 code units, Python code points
(the same but for emoji and the like), Rust and Elixir the bytes of UTF-8. This is JavaScript's, the
SDK that browsers run. Session ids are ASCII as a rule.
"""

import struct
from collections.abc import Iterable

_OFFSET_BASIS = 0x811C9DC5
_PRIME = 0x01000193
_MASK = 0xFFFFFFFF
_N_BUCKETS = 10_000


def hash_v2(value: str, *, seed: str) -> int:
    """Return the bucket of a value, in 0..9999; GrowthBook's `n` times 10,000.

    Args:
        value: The hash attribute's value, here the unit.
        seed: The experiment's seed; GrowthBook takes the experiment's key where none is set.
    """
    first = _fnv1a_32(_code_units(seed + value))
    return _fnv1a_32(str(first).encode()) % _N_BUCKETS


def _code_units(text: str) -> Iterable[int]:
    data = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(data) // 2}H", data)


def _fnv1a_32(units: Iterable[int]) -> int:
    value = _OFFSET_BASIS
    for unit in units:
        value = ((value ^ unit) * _PRIME) & _MASK
    return value
