"""The shared cache tier on Redis. An outage costs hits, never answers."""

import asyncio
import logging
import time
from typing import cast

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

_PREFIX = "carril:answer:1:"
_PAUSE_S = 2.0
"""After a failure Redis is left alone for this long, so that an outage costs one timeout."""


class RedisTier:
    """Answers in Redis, with a short timeout and a pause after failures.

    Args:
        url: `redis://[:password@]host:port/db`.
        timeout_s: Longest wait for one call.
        errors: Counts failed calls.
    """

    def __init__(self, url: str, *, timeout_s: float, errors: Counter) -> None:
        self._redis = Redis.from_url(url, socket_connect_timeout=timeout_s * 4)
        self._timeout_s = timeout_s
        self._errors = errors
        self._paused_until = 0.0

    async def get(self, key: str) -> bytes | None:
        """Return a stored value; None also when Redis does not answer."""
        if time.monotonic() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                return cast("bytes | None", await self._redis.get(_PREFIX + key))
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return None

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Store a value; failures are counted and otherwise ignored."""
        if time.monotonic() < self._paused_until:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._redis.set(_PREFIX + key, value, px=max(1, int(ttl_s * 1000)))
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _failed(self, error: Exception) -> None:
        self._errors.inc()
        self._paused_until = time.monotonic() + _PAUSE_S
        logger.warning("shared cache unavailable", extra={"reason": type(error).__name__})
