"""llama-cpp-python's source distribution: its llama.cpp is what both carril and the peers run."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from cluster.native_build import PACKAGE, pinned_version
from tests.benchmarks.cache import bench_cache, exclusive


class PeerError(Exception):
    """A peer could not be fetched, built or started; the message says what to do."""


def source_tree() -> Path:
    """Return the unpacked source of the pinned version, fetched once per machine.

    Raises:
        PeerError: If the package index is not reachable.
    """
    version = pinned_version()
    target = bench_cache() / "source" / f"{PACKAGE}-{version}"
    with exclusive(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                unpack(_download(version, Path(scratch)), target)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Unpack an archive with one top folder; `target` is that folder, and appears when whole.

    Raises:
        PeerError: If the archive has no single top folder.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, tarfile.open(archive) as file:
        file.extractall(scratch, filter="data")
        tops = sorted(Path(scratch).iterdir())
        if len(tops) != 1:
            raise PeerError(f"{archive.name} holds {[top.name for top in tops]}, not one folder")
        tops[0].replace(target)


def _download(version: str, directory: Path) -> Path:
    sys.stderr.write(f"Fetching the source of {PACKAGE} {version}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
    # Metadata is prepared by the build back end: it needs neither a compiler nor the CPU's flags.
    command += [PACKAGE, "--dest", str(directory), f"{PACKAGE}=={version}"]
    done = subprocess.run(command, env=dict(os.environ), check=False)
    archives = sorted(directory.glob("*.tar.gz"))
    if done.returncode != 0 or not archives:
        raise PeerError(f"pip could not download the source of {PACKAGE}=={version}")
    return archives[0]
