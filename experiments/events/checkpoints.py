"""Moving committed pages from the write-ahead log into the event file, beside the writer.

SQLite does it within a commit, every thousand pages: at thousands of events a second some commits
in a hundred then take several times as long as the others, and so do the requests that wait for
them. Here another connection does the same, and the writer only what is left.
"""

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

logger = logging.getLogger(__name__)

PAGES_AT_MOST = 16_000
"""Pages (of 4 KiB) in the log at which the writer steps in. A log that is written without a pause
starts over only when nothing was written during a checkpoint; the writer's is such a one."""


def checkpoint_forever(path: Path, stop: threading.Event, *, period_s: float = 1.0) -> None:
    """Do it again and again until `stop` is set. Readers and the writer are never in its way.

    Args:
        path: The event file.
        stop: Ends it.
        period_s: Seconds between two checkpoints.
    """
    while not stop.wait(period_s):
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                while not stop.is_set():
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    stop.wait(period_s)
        except sqlite3.Error as error:  # the writer would meet the same, and says it in a commit
            logger.warning("event file not checkpointed", extra={"reason": str(error)})
