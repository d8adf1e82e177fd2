"""What must be true before a job begins: better refused in a second than failed after an hour."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from experiments.jobs.errors import JobError, JobExit


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    """What was found, with numbers."""
    fix: str = ""


def require(checks: Iterable[Check], *, say: Callable[[str], None]) -> None:
    """Tell every check, and go on only if all are well.

    Raises:
        JobError: With all that is in the way.
    """
    failed = []
    for check in checks:
        say(f"preflight {check.name}: {'ok' if check.ok else 'NO'}, {check.detail}")
        if not check.ok:
            failed.append(f"{check.name}: {check.detail}" + (f"; {check.fix}" if check.fix else ""))
    if failed:
        raise JobError(f"not started: {' | '.join(failed)}", JobExit.INFRASTRUCTURE)


def disk(path: Path, need_bytes: int) -> Check:
    """Compare a need with the free space where `path` is or will be."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    return Check(
        "disk",
        free >= need_bytes,
        f"needs about {_gib(need_bytes)}, {_gib(free)} free at {existing}",
        "free some space, or choose another --out",
    )


def memory(need_bytes: int) -> Check:
    """Compare a need with the memory that is available."""
    available = psutil.virtual_memory().available
    return Check(
        "memory",
        available >= need_bytes,
        f"needs about {_gib(need_bytes)}, {_gib(available)} available",
        "make batches or the network smaller, or stop something",
    )


def packages(names: Sequence[str], *, target: str) -> Check:
    """Make sure that packages of an optional extra are installed.

    Args:
        names: Import names.
        target: Target of the Makefile that installs them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    detail = f"not installed: {', '.join(missing)}" if missing else f"{', '.join(names)}"
    return Check("packages", not missing, detail, f"make {target}")


def cluster(environ: Mapping[str, str] = os.environ, *, timeout_s: float = 5.0) -> Check:
    """Make sure that the cluster that runs this job answers; outside one there is none to ask."""
    address = environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in environ or not host or not port.isdigit():
        return Check("cluster", True, "none needed: this is no Ray job")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except OSError as error:
        return Check("cluster", False, f"{address} does not answer: {error}", "carril status")
    return Check("cluster", True, f"{address} answers")


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"
