"""Who may come in: a bounded number of requests, and none while the engine closes."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.engines.protocol import PRIORITIES, Priority
from serve_app.errors import EngineFailed, Overloaded

_FIRST_GUESS_S = 2.0
"""Assumed seconds per request for `Retry-After`, until some have been measured."""
_MAX_RETRY_AFTER_S = 60
_QUEUE_SHARE: dict[Priority, float] = {"interactive": 1.0, "batch": 0.75, "background": 0.25}
"""Share of the queue's places that a class and those below it may fill together."""
_WEIGHT = 0.1
"""Weight of the newest request in the moving average."""


class Admission:
    """Counts requests that run or wait, and refuses those beyond a limit. Thread-safe.

    Of the places in the queue, lesser classes may fill a part only (`_QUEUE_SHARE`), so that users
    find one however much other work there is.

    Args:
        n_slots: Requests that run together.
        max_queue: Requests that may wait besides.
    """

    def __init__(self, n_slots: int, max_queue: int) -> None:
        self._n_slots = n_slots
        self._limits = {
            name: n_slots + math.floor(max_queue * share) for name, share in _QUEUE_SHARE.items()
        }
        self._lock = threading.Lock()
        self._live: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self._request_s = _FIRST_GUESS_S

    @property
    def n_live(self) -> int:
        """Requests that run or wait."""
        return sum(self._live.values())

    def enter(self, priority: Priority = "interactive") -> None:
        """Count a request in.

        Args:
            priority: Its class. It is refused when this class and the lesser ones have filled their
                part, or all classes the whole.

        Raises:
            Overloaded: If there is no place in the queue for it.
        """
        with self._lock:
            lesser = PRIORITIES[PRIORITIES.index(priority) :]
            n_own, limit = sum(self._live[name] for name in lesser), self._limits[priority]
            if n_own >= limit or self.n_live >= self._limits["interactive"]:
                wait_s = math.ceil(self._request_s * self.n_live / self._n_slots)
                raise Overloaded(
                    f"{n_own} requests of class {priority!r} or lesser are running or waiting, "
                    f"allowed: {limit}; {self.n_live} in all, allowed: "
                    f"{self._limits['interactive']}",
                    retry_after_s=float(min(max(wait_s, 1), _MAX_RETRY_AFTER_S)),
                )
            self._live[priority] += 1

    def leave(self, priority: Priority = "interactive", duration_s: float | None = None) -> None:
        """Count a request out.

        Args:
            priority: Its class.
            duration_s: How long it took, if it was computed at all.
        """
        with self._lock:
            self._live[priority] -= 1
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
