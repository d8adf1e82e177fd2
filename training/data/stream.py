"""Random choices that are the same on every machine, Python version and day."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


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
