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

from experiments.events.records import Enrolment, Event, Exposure, Feedback, Kept
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

Append = Callable[[Sequence[Event]], Awaitable[Sequence[Kept]]]
"""Stores a batch; returns what is kept of every enrolment in it, in their order."""


class _Pending(NamedTuple):
    event: Event
    stored: "asyncio.Future[Kept | None] | None"


class _Stored(NamedTuple):
    """What became of a batch, by the identities of its events."""

    lost: set[int]
    """Those that are nowhere."""
    kept: dict[int, Kept]
    """What the store keeps of enrolments."""


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
        await self._wait_for([exposure])

    async def enrol(self, exposure: Exposure) -> Kept | None:
        """Return the unit's first exposure, this one if there was none, once it is durable.

        Returns:
            None if the store cannot say: the exposure is then where `expose` would have put it.

        Raises:
            EventsUnavailable: If durability is `strict` and the store cannot say.
        """
        (kept,) = await self._wait_for([Enrolment(exposure)])
        return kept

    async def submit(self, votes: Sequence[Feedback]) -> None:
        """Return once all of a submission is durable, in the store or in the spool.

        Raises:
            EventsUnavailable: If it is not, whatever the configured durability.
        """
        await self._wait_for(votes)

    async def _wait_for(self, events: Sequence[Event]) -> list[Kept | None]:
        if len(self._pending) >= _MAX_PENDING:
            raise EventsUnavailable("the event log is too far behind", None, 2.0)
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[Kept | None]] = []
        for event in events:  # added in one go, so that one batch takes them all
            waiting.append(loop.create_future())
            self._add(_Pending(event, waiting[-1]))
        return await asyncio.gather(*waiting)

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
                found = await self._store([item.event for item in batch])
                for item in batch:
                    if item.stored is None or item.stored.done():
                        continue
                    is_lost = id(item.event) in found.lost
                    error = self._complaint(item.event) if is_lost else None
                    if error is None:
                        item.stored.set_result(found.kept.get(id(item.event)))
                    else:
                        item.stored.set_exception(error)
        finally:
            self._flushing = None

    async def _store(self, events: Sequence[Event]) -> _Stored:
        """Store events, or spool them."""
        enrolled = [id(event) for event in events if isinstance(event, Enrolment)]
        paused = time.monotonic() < self._paused_until
        for attempt in () if paused else (1, 2):
            try:
                async with asyncio.timeout(self.config.commit_timeout_s):
                    kept = await self._append(events)
                return _Stored(set(), dict(zip(enrolled, kept, strict=True)) if enrolled else {})
            except Exception as error:  # actor death, full disk, timeouts: all end in the spool
                logger.warning(
                    "events not stored",
                    extra={"attempt": attempt, "events": len(events), "reason": repr(error)[:300]},
                )
        if not paused:
            self._paused_until = time.monotonic() + _PAUSE_S
        spooled = [event for event in events if self._belongs_in_spool(event)]
        lost = [event for event in events if not self._belongs_in_spool(event)]
        if spooled:
            try:
                await asyncio.to_thread(self._spool.append, spooled)
                self._metrics.events_spooled.inc(len(spooled))
            except Exception:  # callers wait for this; whatever went wrong, they must be answered
                logger.exception("spool not written")
                lost += spooled
        # What is refused was never acknowledged, and is not lost.
        self._metrics.events_lost.inc(sum(self._complaint(event) is None for event in lost))
        return _Stored({id(event) for event in lost}, {})

    def _belongs_in_spool(self, event: Event) -> bool:
        """Whether an event that the store does not take goes to the spool."""
        if isinstance(event, Feedback):
            return True
        if isinstance(event, Exposure | Enrolment):
            return self.config.durability == "spool"
        return self.config.durability != "best_effort"

    def _complaint(self, event: Event) -> EventsUnavailable | None:
        """Return what its caller is told when an event is stored nowhere; None for nothing."""
        if isinstance(event, Feedback):
            return EventsUnavailable("the feedback could not be stored; send it again", None, 2.0)
        if isinstance(event, Exposure | Enrolment) and self.config.durability == "strict":
            return EventsUnavailable("the exposure could not be recorded", None, 2.0)
        return None
