"""The processes of one cluster, and what they cost.

Ray detaches its processes, so there is no parent to follow. Each carries the cluster's mark in its
environment; some overwrite that memory with their title, but those are children of ones that do
not. No process is ever chosen by its name.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from cluster.ray_environment import CLUSTER_ID_VARIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One process, and a name that a person recognises."""

    pid: int
    name: str
    rss_bytes: int
    shared_bytes: int
    """Part of `rss_bytes` that other processes may count as well."""


def members(
    cluster_id: str, *, known_pids: Iterable[tuple[int, float]] = ()
) -> list[psutil.Process]:
    """Return the live processes of a cluster.

    Args:
        cluster_id: Its mark.
        known_pids: (pid, creation time) of processes seen before; a pid that meanwhile belongs to
            another process is left alone.
    """
    seeds: dict[int, psutil.Process] = {}
    for pid, created_at in known_pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if abs(process.create_time() - created_at) < 1.0:
                seeds[pid] = process
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(CLUSTER_ID_VARIABLE) == cluster_id:
                seeds[process.pid] = process
    found = dict(seeds)
    for process in seeds.values():
        with contextlib.suppress(psutil.Error):
            found |= {child.pid: child for child in process.children(recursive=True)}
    # A command that runs inside the cluster's environment is not part of the cluster.
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for pid, process in sorted(found.items()) if pid not in own]


def describe(processes: Iterable[psutil.Process]) -> list[ProcessInfo]:
    """Return name and memory of processes; those that just ended are left out."""
    infos = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory = process.memory_info()
            infos.append(
                ProcessInfo(
                    pid=process.pid,
                    name=_title(process),
                    rss_bytes=memory.rss,
                    shared_bytes=getattr(memory, "shared", 0),
                )
            )
    return infos


def terminate(processes: list[psutil.Process], *, grace_s: float) -> int:
    """End processes: ask, wait, then force. Return how many had to be forced."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    return len(alive)


def port_owner(port: int) -> str | None:
    """Return 'name (pid N)' of what listens on a local port, 'another process', or None if free."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,):
                if connection.pid is None:
                    return "another process"
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
        return None
    return "another process"


def _title(process: psutil.Process) -> str:
    command = process.cmdline()
    name = process.name()
    if command and command[0].startswith("ray::"):
        return command[0]
    if name.startswith("python"):
        for argument in command[1:]:
            if argument.endswith(".py"):
                parts = argument.rsplit("/", 2)
                return f"ray {parts[-2]}/{parts[-1].removesuffix('.py')}"
    return name
