"""The event writer: one actor per node owns the node's event file.

Gateways reach it by its socket (`socket_server`), or by a call of the actor where that fails.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from experiments.events.checkpoints import PAGES_AT_MOST, checkpoint_forever
from experiments.events.group_commit import GroupCommitWriter
from experiments.events.records import Enrolment, Event, Exposure, Kept
from experiments.events.spool import drain
from experiments.events.store import EventStore
from serve_app.events.shipper import ShipperProcess
from serve_app.events.socket_server import EventSocket
from serve_app.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

NAMESPACE = "carril"
_DRAIN_PERIOD_S = 5.0
_PURGE_PERIOD_S = 600.0


def store_path(home: Path) -> Path:
    """Return the event file of a CARRIL_HOME."""
    return home / "events" / "events.db"


def spool_path(home: Path) -> Path:
    """Return the spool directory of a CARRIL_HOME."""
    return home / "events" / "spool"


class EventWriter:
    """Commits events; replies when they are on disk."""

    def __init__(self, home: str) -> None:
        configure_logging("events")
        path = store_path(Path(home))
        self._spool = spool_path(Path(home))
        self._writer = GroupCommitWriter(EventStore(path, checkpoint_pages=PAGES_AT_MOST))
        self._reader = EventStore(path, read_only=True)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="event-reader")
        self._shipper = ShipperProcess(path)
        self._stop = threading.Event()
        for name, work in (
            ("spool-drain", self._drain_forever),
            ("text-purge", partial(self._purge_forever, path)),
            ("checkpoints", partial(checkpoint_forever, path, self._stop)),
        ):
            threading.Thread(target=work, name=name, daemon=True).start()
        self._socket = self._listen(path.parent)

    async def append(self, events: Sequence[Event]) -> Sequence[Kept]:
        """Store events; those already stored change nothing.

        Returns:
            For every enrolment among them, in their order, what the log keeps of the unit. A first
            exposure never changes, so what is read after the commit holds whatever comes later.
        """
        return await asyncio.wrap_future(self._store(events))

    async def socket_path(self) -> str | None:
        """Return where gateways of this node hand in events faster; None if there is no socket."""
        return None if self._socket is None else str(self._socket.path)

    async def ship_to(self, url: str | None) -> None:
        """Ship this node's events to a central database; None ships nothing."""
        await asyncio.to_thread(self._shipper.ship_to, url)

    def _listen(self, directory: Path) -> EventSocket | None:
        try:
            return EventSocket(directory, self._store)
        except OSError as error:  # a file system without sockets, a path too long for the system
            logger.warning("no event socket", extra={"reason": str(error)})
            return None

    def _store(self, events: Sequence[Event]) -> "Future[Sequence[Kept]]":
        """Hand in a batch; see `append`."""
        done: Future[Sequence[Kept]] = Future()
        done.set_running_or_notify_cancel()  # who stops waiting takes nothing back
        asked = [event.exposure for event in events if isinstance(event, Enrolment)]
        self._writer.submit(events).add_done_callback(partial(self._committed, asked, done))
        return done

    def _committed(
        self, asked: Sequence[Exposure], done: "Future[Sequence[Kept]]", commit: "Future[None]"
    ) -> None:
        if (error := commit.exception()) is not None:
            done.set_exception(error)
        elif asked:
            self._reading.submit(self._tell_kept, asked, done)
        else:
            done.set_result(())

    def _tell_kept(self, asked: Sequence[Exposure], done: "Future[Sequence[Kept]]") -> None:
        try:
            done.set_result([self._reader.kept(exposure) for exposure in asked])
        except Exception as error:  # whoever waits must hear of it
            done.set_exception(error)

    def _drain_forever(self) -> None:
        while True:
            try:
                moved = drain(self._spool, lambda events: self._writer.submit(events).result())
                if moved:
                    logger.info("spool drained", extra={"events": moved})
            except Exception:  # the spool keeps what it has; the next round tries again
                logger.exception("spool not drained")
            if self._stop.wait(_DRAIN_PERIOD_S):
                return

    def _purge_forever(self, path: Path) -> None:
        """Delete captured texts in time, by a connection of its own: the writer's has one user."""
        while True:
            try:
                store = EventStore(path)
                try:
                    purged = store.purge_texts(time.time())
                finally:
                    store.close()
                if purged:
                    logger.info("captured texts deleted", extra={"transcripts": purged})
            except Exception:  # the next round tries again
                logger.exception("captured texts not deleted")
            if self._stop.wait(_PURGE_PERIOD_S):
                return


def get_writer(home: Path) -> ray.actor.ActorHandle:
    """Return this node's writer, starting it if there is none.

    The actor outlives gateways and restarts by itself after a crash.
    """
    node_id = ray.get_runtime_context().get_node_id()
    actor = ray.remote(EventWriter).options(
        name=f"carril-events-{node_id}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=1000,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    )
    return actor.remote(str(home))
