r"""Hugging Face folders are opened only after their content matches the configured SHA-256.

The hash of a folder is that of its list of files, as `sha256sum` writes it: one line
`SHA-256  NAME` per file, sorted by name, names relative to the folder. It is the same as

    cd FOLDER
    find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum

so a file that is altered, added, taken away or renamed is another model.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from serve_app.config import ModelFileConfig
from serve_app.errors import ModelFileError

_CHUNK_BYTES = 1 << 22
_MAX_FILES = 1000
_NEEDED = ("config.json", "tokenizer.json")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


class VerifiedFolder(NamedTuple):
    """A folder whose content had the expected hash at the time of `identities`."""

    path: Path
    sha256: str
    size_bytes: int
    identities: dict[str, tuple[int, int, int, int]]
    """By name: device, inode, size and modification time; a later change shows here."""


def verify_model_folder(config: ModelFileConfig) -> VerifiedFolder:
    """Hash a folder and compare. Blocking; about 1 s per GB.

    Raises:
        ModelFileError: If it is missing, unreadable, no folder that is served, or has another hash.
    """
    path = Path(config.path)
    if not path.is_dir():
        kind = "is no folder" if path.exists() else f"does not exist (looked in {Path.cwd()})"
        raise ModelFileError(f"model folder {config.path!r} {kind}")
    try:
        folder = hash_folder(path)
    except OSError as error:
        raise ModelFileError(
            f"model folder {config.path!r} cannot be read: {error.filename}: {error.strerror}"
        ) from error
    if folder.sha256 != config.sha256:
        raise ModelFileError(
            f"model folder {config.path!r} has sha256 {folder.sha256}, the configuration says "
            f"{config.sha256}: a file in it was altered, added or taken away, or it is another "
            "folder; it was not opened"
        )
    _check_content(folder)
    return folder


def hash_folder(path: Path) -> VerifiedFolder:
    """Return a folder with its hash, whatever is in it.

    Raises:
        ModelFileError: If it holds what cannot be listed: a pipe, a link out of it to a folder, a
            name with a line break, or a thousand files.
        OSError: If a file cannot be read.
    """
    files = _files(path)
    lines = bytearray()
    identities = {}
    for name in sorted(files, key=os.fsencode):
        digest = hashlib.sha256()
        with files[name].open("rb") as file:
            identities[name] = _identity(os.fstat(file.fileno()))
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        lines += f"{digest.hexdigest()}  ".encode() + os.fsencode(name) + b"\n"
    size = sum(identity[2] for identity in identities.values())
    return VerifiedFolder(path, hashlib.sha256(lines).hexdigest(), size, identities)


def check_folder_unchanged(folder: VerifiedFolder) -> None:
    """Make sure that what was loaded is what was hashed.

    Raises:
        ModelFileError: If a file was replaced, written to, added or taken away since.
    """
    try:
        now = {name: _identity(file.stat()) for name, file in _files(folder.path).items()}
    except OSError:
        now = {}
    changed = sorted(name for name, _ in now.items() ^ folder.identities.items())
    if changed:
        raise ModelFileError(
            f"model folder {str(folder.path)!r} changed while it was being loaded: {changed[0]!r}"
        )


def _files(path: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for directory, subfolders, names in os.walk(path):
        here = Path(directory)
        for name in subfolders:
            if (here / name).is_symlink():
                raise ModelFileError(f"model folder {str(path)!r}: {name!r} is a link to a folder")
        for name in names:
            file = here / name
            relative = file.relative_to(path).as_posix()
            if not file.is_file():  # opening a pipe would wait for its writer
                raise ModelFileError(f"model folder {str(path)!r}: {relative!r} is no regular file")
            if "\n" in relative or "\\" in relative:
                raise ModelFileError(f"model folder {str(path)!r}: odd file name {relative!r}")
            files[relative] = file
        if len(files) > _MAX_FILES:
            raise ModelFileError(f"model folder {str(path)!r} has more than {_MAX_FILES} files")
    return files


def _check_content(folder: VerifiedFolder) -> None:
    names = folder.identities
    for name in _NEEDED:
        if name not in names:
            raise ModelFileError(f"model folder {str(folder.path)!r} has no {name}")
    if not any("/" not in name and name.endswith(".safetensors") for name in names):
        raise ModelFileError(f"model folder {str(folder.path)!r} has no *.safetensors")
    for name in names:
        if Path(name).suffix in _PICKLES:
            raise ModelFileError(
                f"model folder {str(folder.path)!r} holds {name!r}: pickled weights can run code; "
                "keep the safetensors only"
            )


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
