"""The event writer: one actor per node owns the node's event file."""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from experiments.events.group_commit import GroupCommitWriter
from experiments.events.records import Enrolment, Event, Exposure, Kept
from experiments.events.spool import drain
from experiments.events.store import EventStore
from serve_app.events.shipper import ShipperProcess
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
        self._spool = spool_path(Path(home))
        self._writer = GroupCommitWriter(EventStore(store_path(Path(home))))
        self._reader = EventStore(store_path(Path(home)), read_only=True)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="event-reader")
        self._shipper = ShipperProcess(store_path(Path(home)))
        self._stop = threading.Event()
        threading.Thread(target=self._drain_forever, name="spool-drain", daemon=True).start()
        threading.Thread(
            target=self._purge_forever,
            args=(store_path(Path(home)),),
            name="text-purge",
            daemon=True,
        ).start()

    async def append(self, events: Sequence[Event]) -> Sequence[Kept]:
        """Store events; those already stored change nothing.

        Returns:
            For every enrolment among them, in their order, what the log keeps of the unit. A first
            exposure never changes, so what is read after the commit holds whatever comes later.
        """
        await asyncio.wrap_future(self._writer.submit(events))
        asked = [event.exposure for event in events if isinstance(event, Enrolment)]
        if not asked:
            return ()
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._kept, asked)

    def _kept(self, asked: Sequence[Exposure]) -> list[Kept]:
        return [self._reader.kept(exposure) for exposure in asked]

    async def ship_to(self, url: str | None) -> None:
        """Ship this node's events to a central database; None ships nothing."""
        await asyncio.to_thread(self._shipper.ship_to, url)

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
