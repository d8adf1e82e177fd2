"""The assistant's profile that a model was trained with: prompt, answer schema, chat template.

A model answers well only with the profile it has learnt. A profile that is kept with its version
comes back with it when a rollback needs it, whatever has become of the directory it came from.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.grounding.profile_options import FILE as OPTIONS_FILE
from experiments.grounding.profile_options import parse_options
from experiments.grounding.profile_options import prior_sha256 as prior_in_use
from experiments.registry.errors import RegistryError

FILES = {
    "system_prompt.txt": "system_prompt.sha256",
    "answer.schema.json": "answer_schema.sha256",
    "chat_template.jinja": "chat_template.sha256",
    "profile.yaml": "profile_options.sha256",
}
"""File of a profile -> key of its hash in a version's lineage."""
_PRIOR_KEY = "intent_prior.sha256"
"""The same for the file that the options name as the intent prior, whatever it is called."""


class ServedFiles(NamedTuple):
    """What a version is served from."""

    model: Path
    profile: Path | None
    """None if none was registered with it; then that of the config stays."""


def read_profile(folder: Path) -> dict[str, bytes]:
    """Return the files of a profile, those that are there.

    Raises:
        OSError: If one cannot be read, or one that the options name is missing.
        RegistryError: If the options cannot be used.
    """
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if OPTIONS_FILE in files:
        try:
            prior = parse_options(files[OPTIONS_FILE].decode()).intent_prior
        except ValueError as error:  # UnicodeDecodeError is one
            raise RegistryError(f"{folder / OPTIONS_FILE}: {error}") from error
        if prior is not None:
            files[prior] = (folder / prior).read_bytes()
    return files


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the hashes of a profile's files, by their keys in a lineage."""
    return {
        FILES.get(name, _PRIOR_KEY): hashlib.sha256(content).hexdigest()
        for name, content in files.items()
    }


def prior_sha256(files: Mapping[str, bytes]) -> str | None:
    """Return the hash of the intent prior that a profile adds, as calibrations name it.

    Args:
        files: What `read_profile` returned.
    """
    options = parse_options(files.get(OPTIONS_FILE, b"").decode())
    if options.intent_prior is None:
        return None
    return prior_in_use(files[options.intent_prior], options.intent_prior_weight)


def differences(files: Mapping[str, bytes], lineage: Mapping[str, str]) -> list[str]:
    """Return which files are not those that a model was trained with."""
    found = []
    present = hashes(files)
    for name, key in (*FILES.items(), ("the intent prior", _PRIOR_KEY)):
        wanted = lineage.get(key)
        if wanted is None:
            continue
        actual = present.get(key, "missing")
        if actual != wanted:
            found.append(f"{name} ({actual[:12]}, trained with {wanted[:12]})")
    return found
