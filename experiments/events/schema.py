"""Versions of the event file, and bringing an older one forward."""

import sqlite3
from pathlib import Path

from experiments.events.records import SCHEMA_VERSION


def version_of(db: sqlite3.Connection) -> int:
    """Return the schema version of a file; 0 for an empty one."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def migrate(path: Path) -> bool:
    """Bring a file to this version, in one transaction; one that is there already is left alone.

    Args:
        path: The event file; not newer than this build. Made if it is not there.

    Returns:
        Whether there was anything to do.

    Raises:
        sqlite3.Error: If it failed; then the file is as it was.
    """
    with sqlite3.connect(path) as db:
        version = version_of(db)
    db.close()
    if version == SCHEMA_VERSION:
        return False
    from experiments.events.upgrade import upgrade_file

    upgrade_file(path)
    return True
