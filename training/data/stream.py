"""Random choices that are the same on every machine, Python version and day."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class Stream:
    """A stream of choices derived from a path of names by SHA-256 in counter mode.

    `random.Random` promises a stable sequence for `random()` only; how `choice` and `shuffle` use
    it has changed between Python versions. Here each choice is integer arithmetic on a hash, and a
    child stream depends on its name alone, so that adding a choice in one place moves no other.
    """

    def __init__(self, *path: str | int) -> None:
        self._key = "/".join(str(part) for part in path)
        self._counter = 0

    def child(self, *path: str | int) -> "Stream":
        """Return an independent stream named below this one."""
        return Stream(self._key, *path)

    def below(self, limit: int) -> int:
        """Return an integer in 0..limit-1.

        Raises:
            ValueError: If `limit` is not positive.
        """
        if limit <= 0:
            raise ValueError(f"limit must be positive, not {limit!r}")
        digest = hashlib.sha256(f"{self._key}#{self._counter}".encode()).digest()
        self._counter += 1
        # 64 bits over limits of thousands: the bias of the remainder is below 1e-15.
        return int.from_bytes(digest[:8], "big") % limit

    def percent(self, chance: int) -> bool:
        """Return True with a probability of `chance` percent."""
        return self.below(100) < chance

    def choice(self, options: Sequence[T]) -> T:
        """Return one of `options`, each with the same probability."""
        return options[self.below(len(options))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result

    def permutation(self, n: int) -> NDArray[np.int64]:
        """Return 0..n-1 in a random order: millions in the time in which `shuffled` does a few."""
        return np.argsort(self._keys(n), kind="stable").astype(np.int64)

    def chances(self, n: int, percent: int) -> NDArray[np.bool_]:
        """Return `n` times what `percent` does, many at once."""
        return self._keys(n) % np.uint64(100) < np.uint64(percent)

    def _keys(self, n: int) -> NDArray[np.uint64]:
        """Return 64 random bits for each of n things.

        They are those of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
        number generators", figure 17) from a start that this stream chooses.
        """
        start = np.uint64(self.below(1 << 64))
        with np.errstate(over="ignore"):
            keys = start + (np.arange(n, dtype=np.uint64) + np.uint64(1)) * _GOLDEN_GAMMA
            keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return keys ^ (keys >> np.uint64(31))
