"""Shipping a node's events to the central database: at least once, with the effect of once.

The event file is the outbox: places only grow, so what is to be sent is what lies behind the place
that the database itself has recorded for this node, in the transaction that stored the events. It
does not matter when either side dies. The file remembers the place as well, and the earlier one
counts: either side may have been put back from an older copy, and sending again changes nothing.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from experiments.events.central import CentralError, CentralStore, Row, Shipment
from experiments.events.records import Event, Exposure, Feedback, Outcome

logger = logging.getLogger(__name__)

BATCH = 2_000
"""Events in one transaction at most."""
_PERIOD_S = 1.0
_LONGEST_PAUSE_S = 30.0
_TELL_S = 30.0
"""How often the event file is told that everything is shipped; every time costs it a sync."""

_SHIPPED: tuple[tuple[str, type[Event]], ...] = (
    ("exposures", Exposure),
    ("exposure_conflicts", Exposure),
    ("outcomes", Outcome),
    ("feedback", Feedback),
    ("feedback_conflicts", Feedback),
)
"""A conflict is sent as the event that it was: the central database finds the conflict again."""

_NODE = """
SELECT node.value, COALESCE(
    (SELECT seq FROM shipments WHERE party = :party), CAST(last_seq.value AS INTEGER)
)
FROM log_state AS node, log_state AS last_seq
WHERE node.name = 'node' AND last_seq.name = 'last_seq'
"""
"""Identity of a file, and the place up to which it believes that a destination has its events."""
_TELL = "INSERT INTO shipments (party, seq, shipped_at) VALUES (?, ?, ?) ON CONFLICT (party)"


def rows_after(db: sqlite3.Connection, seq: int, limit: int = BATCH) -> list[Row]:
    """Return the next events of a file, in the order of their places.

    Args:
        db: The event file.
        seq: The place after which to begin.
        limit: Events at most.
    """
    found: list[Row] = []
    for table, record in _SHIPPED:
        cursor = db.execute(
            f"SELECT * FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608 (own names)
            (seq, limit),
        )
        names = [column[0] for column in cursor.description]
        found += [Row(record, dict(zip(names, values, strict=True))) for values in cursor]
    found.sort(key=lambda row: int(row.values["seq"]))
    if len(found) > limit:
        # One event may have two rows, a vote and its conflict for instance: they go together.
        last = found[limit - 1].values["seq"]
        found = [row for row in found if row.values["seq"] <= last]
    return found


class Shipper:
    """Brings one event file to one database. One thread uses it.

    Args:
        path: The event file, of this version; may be in use.
        central: Where to.
        batch: Events in one transaction at most.
    """

    def __init__(self, path: Path, central: CentralStore, *, batch: int = BATCH) -> None:
        self._path = path
        self._central = central
        self._batch = batch
        self._told_at = 0.0

    def ship(
        self, *, from_start: bool = False, moved: Callable[[int], Any] = lambda _: None
    ) -> int:
        """Send what there is; return the number of events.

        Args:
            from_start: Send everything again; what is there already changes nothing.
            moved: Told the number of events after every transaction.

        Raises:
            CentralError: If the database cannot be used.
            sqlite3.Error: If the event file cannot be read.
        """
        total = 0
        while (shipment := self._step(from_start=from_start)).n_events:
            from_start = False  # the first transaction has set the database's place back
            total += shipment.n_events
            moved(total)
        return total

    def follow(self, stop: threading.Event) -> None:
        """Send events as they come, until told to stop; an outage is waited out."""
        pause = _PERIOD_S
        while True:
            try:
                self.ship()
                pause = _PERIOD_S
            except (CentralError, sqlite3.Error) as error:
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                # In the message: whoever started this process reads what it says on stderr.
                logger.warning("events not shipped: %s", str(error)[:500])
            if stop.wait(pause):
                return

    def _step(self, *, from_start: bool) -> Shipment:
        now = time.time()
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=30)) as db:
            node, known = db.execute(_NODE, {"party": self._central.name}).fetchone()
            try:
                shipment = self._central.ship(
                    node,
                    lambda seq: self._rows(db, seq),
                    now=now,
                    at_most=known,
                    from_start=from_start,
                )
            except CentralError:
                # From the first try on the file knows that a destination lacks its events.
                db.execute(f"{_TELL} DO NOTHING", (self._central.name, 0, now))
                raise
            if not shipment.n_events and now < self._told_at + _TELL_S:
                return shipment
            self._told_at = now
            db.execute(
                f"{_TELL} DO UPDATE SET seq = excluded.seq, shipped_at = excluded.shipped_at",
                (self._central.name, shipment.seq, now),
            )
        return shipment

    def _rows(self, db: sqlite3.Connection, seq: int) -> Sequence[Row]:
        db.execute("BEGIN")  # one snapshot: a place that is seen in one table is seen in all
        try:
            return rows_after(db, seq, self._batch)
        finally:
            db.execute("COMMIT")
