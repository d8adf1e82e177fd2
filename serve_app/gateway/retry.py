"""The retry budget: repeating requests must not finish off a cluster that is struggling."""

import asyncio

from serve_app.config import RetryConfig

_PATIENCE_S = 10.0
"""How long a retry waits for another one to end. A replica that dies leaves all its requests at
once; they are spread out rather than given up."""


class RetryBudget:
    """Allows retries at once up to a share of the requests in progress, plus a few."""

    def __init__(self, config: RetryConfig) -> None:
        self.config = config
        self._live = 0
        self._retrying = 0
        self._ended = asyncio.Event()

    def enter(self) -> None:
        """Count a request in."""
        self._live += 1

    def leave(self) -> None:
        """Count a request out."""
        self._live -= 1

    def try_begin(self) -> bool:
        """Reserve a retry; `end` gives it back."""
        if self._retrying >= self._allowed:
            return False
        self._retrying += 1
        return True

    async def begin(self) -> bool:
        """Reserve a retry, waiting for one to end while all are taken; `end` gives it back.

        Returns:
            False if none came free in time, or none is allowed at all.
        """
        if self._allowed <= 0:
            return False
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not self.try_begin():
                    await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        """Give a retry back."""
        self._retrying -= 1
        self._ended.set()
        self._ended = asyncio.Event()

    @property
    def _allowed(self) -> float:
        return self.config.budget_min + self.config.budget_rate * self._live
