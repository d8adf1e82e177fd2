"""Bounds on the requests that a gateway replica works on at once."""

from collections import Counter
from collections.abc import Callable

from serve_app.config import LimitsConfig
from serve_app.engines.protocol import Priority
from serve_app.errors import Overloaded, RateLimited

_LESSER_SHARE = 0.75
"""Share of all places, and of a tenant's, that requests below `interactive` may take together."""


class Admission:
    """Counts requests in progress, in all and per tenant, and apart those that nobody waits for."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self._total = 0
        self._by_tenant: Counter[str] = Counter()
        self._lesser = 0
        self._lesser_by_tenant: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Requests in progress."""
        return self._total

    def enter(
        self, tenant: str, places: int = 1, priority: Priority = "interactive"
    ) -> Callable[[], None]:
        """Take places; call the returned function once to give them back (more is harmless).

        Args:
            tenant: Who asks.
            places: Generations that the request runs at once.
            priority: Its class; those below `interactive` leave places for users.

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
        lesser = 0 if priority == "interactive" else places
        self._check_lesser(tenant, lesser, priority)
        self._total += places
        self._by_tenant[tenant] += places
        self._lesser += lesser
        self._lesser_by_tenant[tenant] += lesser
        released = False

        def release() -> None:
            nonlocal released
            if released:
                return
            released = True
            self._total -= places
            self._by_tenant[tenant] -= places
            self._lesser -= lesser
            self._lesser_by_tenant[tenant] -= lesser
            if self._by_tenant[tenant] <= 0:
                del self._by_tenant[tenant], self._lesser_by_tenant[tenant]

        return release

    def _check_lesser(self, tenant: str, places: int, priority: Priority) -> None:
        if not places:
            return
        limits = self.limits
        if self._lesser + places > max(1, int(limits.max_in_flight * _LESSER_SHARE)):
            raise Overloaded(
                f"{self._lesser} requests below 'interactive' are in progress; {priority!r} leaves "
                "the other places to users",
                None,
                1.0,
            )
        n_own = self._lesser_by_tenant[tenant]
        if n_own + places > max(1, int(limits.max_in_flight_per_tenant * _LESSER_SHARE)):
            raise RateLimited(
                f"{n_own} requests of this key below 'interactive' are in progress; wait for some",
                None,
                1.0,
            )
