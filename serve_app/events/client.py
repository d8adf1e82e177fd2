"""The gateway's side of the event log.

Events of all requests in progress travel together: while one call to the writer is under way the
next batch gathers. If the writer does not answer, events go to a synced spool file, from which the
writer collects them later.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from experiments.events.records import Event, Exposure
from experiments.events.spool import Spool
from serve_app.config import EventsConfig
from serve_app.errors import EventsUnavailable
from serve_app.telemetry.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

_LINGER_S = 0.05
"""How long events that nobody waits for may gather; a waiting exposure takes them along at once."""
_PAUSE_S = 1.0
"""After a failure the writer is left alone for this long, so that an outage does not cost every
request two timeouts."""
_MAX_PENDING = 20_000
"""Events waiting at most; above it outcomes are counted as lost, exposures refused."""

Append = Callable[[Sequence[Event]], Awaitable[None]]


class _Pending(NamedTuple):
    event: Event
    stored: "asyncio.Future[None] | None"


class EventClient:
    """Hands events to the writer.

    Args:
        append: Stores a batch durably, or raises.
        spool: Where batches go that could not be stored.
        config: Durability and timeout.
        metrics: Counts spooled and lost events.
    """

    def __init__(
        self, append: Append, spool: Spool, config: EventsConfig, metrics: GatewayMetrics
    ) -> None:
        self._append = append
        self._spool = spool
        self.config = config
        self._metrics = metrics
        self._pending: list[_Pending] = []
        self._flushing: asyncio.Task[None] | None = None
        self._urgent = asyncio.Event()
        self._paused_until = 0.0

    async def expose(self, exposure: Exposure) -> None:
        """Return once the exposure is durable, as far as the configuration demands.

        Raises:
            EventsUnavailable: If durability is `strict` and the exposure could not be stored.
        """
        if len(self._pending) >= _MAX_PENDING:
            raise EventsUnavailable("the event log is too far behind", None, 2.0)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(_Pending(exposure, stored))
        await stored

    def record(self, event: Event) -> None:
        """Store an event soon; the caller does not wait."""
        if len(self._pending) >= _MAX_PENDING:
            self._metrics.events_lost.inc()
            return
        self._add(_Pending(event, None))

    async def flush(self) -> None:
        """Wait until everything handed in so far is stored."""
        while self._flushing is not None:
            await asyncio.shield(self._flushing)

    def _add(self, pending: _Pending) -> None:
        self._pending.append(pending)
        if pending.stored is not None:
            self._urgent.set()
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            while self._pending:
                if not self._urgent.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LINGER_S):
                            await self._urgent.wait()
                self._urgent.clear()
                batch, self._pending = self._pending, []
                error = await self._store([item.event for item in batch])
                for item in batch:
                    if item.stored is None or item.stored.done():
                        continue
                    if error is None:
                        item.stored.set_result(None)
                    else:
                        item.stored.set_exception(error)
        finally:
            self._flushing = None

    async def _store(self, events: Sequence[Event]) -> EventsUnavailable | None:
        paused = time.monotonic() < self._paused_until
        for attempt in () if paused else (1, 2):
            try:
                async with asyncio.timeout(self.config.commit_timeout_s):
                    await self._append(events)
                return None
            except Exception as error:  # actor death, full disk, timeouts: all end in the spool
                logger.warning(
                    "events not stored",
                    extra={"attempt": attempt, "events": len(events), "reason": repr(error)[:300]},
                )
        if not paused:
            self._paused_until = time.monotonic() + _PAUSE_S
        if self.config.durability == "strict":
            # Outcomes are kept even where a missing exposure refuses the request.
            events = [event for event in events if not isinstance(event, Exposure)]
        if events and self.config.durability != "best_effort":
            try:
                await asyncio.to_thread(self._spool.append, events)
                self._metrics.events_spooled.inc(len(events))
                events = []
            except Exception:  # callers wait for this; whatever went wrong, they must be answered
                logger.exception("spool not written")
        if events:
            self._metrics.events_lost.inc(len(events))
        if self.config.durability == "strict":
            return EventsUnavailable("the exposure could not be recorded", None, 2.0)
        return None
