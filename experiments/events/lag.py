"""How far the central database is behind an event file, as the file itself knows it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

_SHIPPED = ("exposures", "exposure_conflicts", "outcomes", "feedback", "feedback_conflicts")


class Lag(NamedTuple):
    """How far a destination is behind."""

    destination: str
    seq: int
    """It has all events up to this place."""
    shipped_at: float
    """When the shipper last said so; seconds since the epoch."""
    n_waiting: int | None
    """Events it does not have; None where only the node can know."""


def lags(path: Path) -> list[Lag]:
    """Return how far each destination is behind; none before the first shipment.

    Args:
        path: The event file; may be in use.

    Raises:
        sqlite3.Error: If it cannot be read.
    """
    waiting = " + ".join(
        f"(SELECT COUNT(*) FROM {table} WHERE seq > shipments.seq)"  # noqa: S608 (own names)
        for table in _SHIPPED
    )
    address = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=5)) as db:
        rows = db.execute(
            f"SELECT party, seq, shipped_at, {waiting} FROM shipments ORDER BY party"  # noqa: S608
        )
        return [Lag(*row) for row in rows]
