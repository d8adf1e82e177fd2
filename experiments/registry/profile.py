"""The assistant's profile that a model was trained with: prompt, answer schema, chat template.

A model answers well only with the profile it has learnt. A profile that is kept with its version
comes back with it when a rollback needs it, whatever has become of the directory it came from.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FILES = {
    "system_prompt.txt": "system_prompt.sha256",
    "answer.schema.json": "answer_schema.sha256",
    "chat_template.jinja": "chat_template.sha256",
    "profile.yaml": "profile_options.sha256",
}
"""File of a profile -> key of its hash in a version's lineage."""


class ServedFiles(NamedTuple):
    """What a version is served from."""

    model: Path
    profile: Path | None
    """None if none was registered with it; then that of the config stays."""


def read_profile(folder: Path) -> dict[str, bytes]:
    """Return the files of a profile, those that are there.

    Raises:
        OSError: If one cannot be read.
    """
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def differences(files: Mapping[str, bytes], lineage: Mapping[str, str]) -> list[str]:
    """Return which files are not those that a model was trained with."""
    found = []
    for name, key in FILES.items():
        wanted = lineage.get(key)
        if wanted is None:
            continue
        actual = hashlib.sha256(files[name]).hexdigest() if name in files else "missing"
        if actual != wanted:
            found.append(f"{name} ({actual[:12]}, trained with {wanted[:12]})")
    return found
