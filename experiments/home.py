"""Where the domain finds and keeps its files: under `CARRIL_HOME`."""

import os
from pathlib import Path


def carril_home() -> Path:
    """Return `CARRIL_HOME`, `./var` unless it is set."""
    return Path(os.environ.get("CARRIL_HOME") or "var")


def event_file(home: Path) -> Path:
    """Return the file with the events of a home."""
    return home / "events" / "events.db"


def waiting_spool_files(events: Path) -> list[Path]:
    """Return the files with events that wait to be collected into an event file."""
    spool = events.parent / "spool"
    # Claimed files are being collected, or were when their collector died.
    return sorted([*spool.glob("*.jsonl"), *spool.glob("*.claimed")])
