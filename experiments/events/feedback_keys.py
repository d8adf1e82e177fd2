"""Looking up what was stored under an Idempotency-Key."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple


class StoredKey(NamedTuple):
    """The submission that came first under a key."""

    feedback_id: str
    request_hash: str


def stored_key(path: Path, idempotency: str) -> StoredKey | None:
    """Return the submission stored under a key; None if there is none, or the file is not readable.

    Not readable is no error here: the file may not exist yet, and a repeated record changes
    nothing.

    Args:
        path: The event file, beside a running writer.
        idempotency: Keyed hash of the client's key.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=1)) as db:
            row = db.execute(
                "SELECT feedback_id, request_hash FROM feedback WHERE idempotency = ? "
                "ORDER BY received_at LIMIT 1",
                (idempotency,),
            ).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else StoredKey(*row)
