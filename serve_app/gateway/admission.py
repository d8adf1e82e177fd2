"""Bounds on the requests that a gateway replica works on at once."""

from collections import Counter
from collections.abc import Callable

from serve_app.config import LimitsConfig
from serve_app.errors import Overloaded, RateLimited


class Admission:
    """Counts requests in progress, in all and per tenant."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self._total = 0
        self._by_tenant: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Requests in progress."""
        return self._total

    def enter(self, tenant: str, places: int = 1) -> Callable[[], None]:
        """Take places; call the returned function once to give them back (more is harmless).

        Args:
            tenant: Who asks.
            places: Generations that the request runs at once.

        Raises:
            Overloaded: If this replica is full.
            RateLimited: If this tenant has too many requests in progress.
        """
        if self._total + places > self.limits.max_in_flight:
            raise Overloaded(f"{self._total} requests are in progress; try again", None, 1.0)
        if self._by_tenant[tenant] + places > self.limits.max_in_flight_per_tenant:
            raise RateLimited(
                f"{self._by_tenant[tenant]} requests of this key are in progress; wait for some",
                None,
                1.0,
            )
        self._total += places
        self._by_tenant[tenant] += places
        released = False

        def release() -> None:
            nonlocal released
            if released:
                return
            released = True
            self._total -= places
            self._by_tenant[tenant] -= places
            if self._by_tenant[tenant] <= 0:
                del self._by_tenant[tenant]

        return release
