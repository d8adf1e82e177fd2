"""What decides what a training sees: one hash over code, phrases and prompt."""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from training.contract import PROFILE_DIR

_HERE = Path(__file__).resolve().parent
_PROFILE_FILES = ("system_prompt.txt", "answer.schema.json", "chat_template.jinja")
"""Of the profile: what a network learns to answer under."""
_KINDS = (".py", ".yaml", ".tsv")
"""Of the files of `training/data`."""


@cache
def sources_sha256() -> str:
    """Return the hash of everything beside a configuration that data is made from."""
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in _sources())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _sources() -> Iterator[Path]:
    yield from sorted(_HERE.glob("*.py"))
    data = (path for path in (_HERE / "data").rglob("*") if path.suffix in _KINDS)
    yield from sorted(data)
    yield from (PROFILE_DIR / name for name in _PROFILE_FILES)
