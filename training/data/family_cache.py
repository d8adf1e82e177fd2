"""Remembers the families of the phrases from one command to the next.

Comparing 282,000 phrases with one another takes a minute; the result depends on nothing
but the phrases and the code, whose hash names the file.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.whole_file import write_whole
from training.data import families
from training.data.families import group_near_duplicates


def remembered_families(phrases: Sequence[Sequence[str]]) -> list[int]:
    """Return `group_near_duplicates(phrases)`, from the user's cache where it is known.

    A cache that cannot be read or written costs time, nothing else.

    Args:
        phrases: The normalised readings of each phrase.
    """
    folder = _cache_dir()
    if folder is None:
        return group_near_duplicates(phrases)
    code = Path(families.__file__).read_text(encoding="utf-8")
    key = hashlib.sha256(json.dumps([code, phrases]).encode()).hexdigest()
    path = folder / f"families-{key[:32]}.json"
    groups = _read(path, n_phrases=len(phrases))
    if groups is None:
        groups = group_near_duplicates(phrases)
        _write(path, groups)
    return groups


def _cache_dir() -> Path | None:
    """Return the user's folder for our caches; some users, of containers for example, have none."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    return base / "carril" if base.is_absolute() else None


def _read(path: Path, *, n_phrases: int) -> list[int] | None:
    try:
        groups = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    sound = (
        isinstance(groups, list)
        and len(groups) == n_phrases
        and all(isinstance(g, int) and 0 <= g <= i for i, g in enumerate(groups))
    )
    return groups if sound else None


def _write(path: Path, groups: list[int]) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(groups).encode())
