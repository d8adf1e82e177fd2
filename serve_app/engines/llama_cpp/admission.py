"""Who may come in: a bounded number of requests, and none while the engine closes."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import EngineFailed, Overloaded

_FIRST_GUESS_S = 2.0
"""Assumed seconds per request for `Retry-After`, until some have been measured."""
_MAX_RETRY_AFTER_S = 60
_WEIGHT = 0.1
"""Weight of the newest request in the moving average."""


class Admission:
    """Counts requests that run or wait, and refuses those beyond a limit. Thread-safe.

    Args:
        n_slots: Requests that run together.
        max_queue: Requests that may wait besides.
    """

    def __init__(self, n_slots: int, max_queue: int) -> None:
        self._n_slots = n_slots
        self._limit = n_slots + max_queue
        self._lock = threading.Lock()
        self._n_live = 0
        self._request_s = _FIRST_GUESS_S

    @property
    def n_live(self) -> int:
        """Requests that run or wait."""
        return self._n_live

    def enter(self) -> None:
        """Count a request in.

        Raises:
            Overloaded: If the queue is full.
        """
        with self._lock:
            if self._n_live >= self._limit:
                wait_s = math.ceil(self._request_s * self._n_live / self._n_slots)
                raise Overloaded(
                    f"{self._n_live} requests are running or waiting, allowed: {self._limit}",
                    retry_after_s=float(min(max(wait_s, 1), _MAX_RETRY_AFTER_S)),
                )
            self._n_live += 1

    def leave(self, duration_s: float | None = None) -> None:
        """Count a request out.

        Args:
            duration_s: How long it took, if it was computed at all.
        """
        with self._lock:
            self._n_live -= 1
            if duration_s is not None:
                self._request_s += _WEIGHT * (duration_s - self._request_s)


class UseGuard:
    """Keeps what several threads use from being freed under them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._n_users = 0
        self._closed = False

    @contextmanager
    def use(self) -> Iterator[None]:
        """Hold it open for the length of a `with` block.

        Raises:
            EngineFailed: If it is closed.
        """
        with self._condition:
            if self._closed:
                raise EngineFailed("the engine was closed")
            self._n_users += 1
        try:
            yield
        finally:
            with self._condition:
                self._n_users -= 1
                self._condition.notify_all()

    def close(self) -> bool:
        """Refuse new users and wait for the present ones; False if it was closed before."""
        with self._condition:
            first = not self._closed
            self._closed = True
            self._condition.wait_for(lambda: self._n_users == 0)
        return first
