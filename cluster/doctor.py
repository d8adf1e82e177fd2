"""Checks of this machine: each says ok, warn or fail, what it saw, and what to do.

A check never raises: what it cannot find out is a finding too.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from cluster.home import carril_home
from cluster.local_cluster import ClusterRecord
from cluster.memory import gib, memory_need
from cluster.native_build import cpu_flags, pinned_version
from cluster.process_tree import port_owner
from cluster.ray_environment import find_haproxy
from cluster.validate import ServeConfig, check_files, load_serve_config
from serve_app.errors import ConfigError

_ROOT = Path(__file__).resolve().parent.parent
_SHM = Path("/dev/shm")  # noqa: S108 (looked at, not written to)
_MIN_SHM_BYTES = 256 << 20
_MIN_DISK_BYTES = 2 << 30
_SPEED_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
_IMPORTANT = ("ray", "fastapi", "httpx", "pydantic", "numpy")
_SYSTEM_INFO = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check."""

    name: str
    level: Level
    detail: str
    fix: str | None = None


def examine(config_path: Path) -> list[Finding]:
    """Run all checks.

    Args:
        config_path: Config that would be served; checks of it are one finding if it is invalid.
    """
    checks: tuple[Callable[[], Finding], ...] = (
        check_python,
        check_versions,
        check_compiler,
        check_cpu,
        check_native,
        check_haproxy,
        check_shared_memory,
        check_disk,
    )
    findings = [check() for check in checks]
    try:
        config = load_serve_config(config_path)
    except ConfigError as error:
        fix = "correct the file" if config_path.exists() else "run from the project's directory"
        findings.append(_finding("config", Level.FAIL, str(error), fix))
        return [*findings, check_ports(8000)]
    findings.append(_finding("config", Level.OK, f"{config_path}: valid"))
    findings += check_models(config)
    return [*findings, check_ports(config.http_options()[1])]


def check_python() -> Finding:
    """Is this Python one that carril supports?"""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return _finding("python", Level.OK, version)
    return _finding(
        "python", Level.FAIL, f"{version}; carril needs 3.11 or 3.12", "make clean serve"
    )


def check_versions() -> Finding:
    """Are the installed packages those of the lock?"""
    pins = locked_versions(_ROOT / "requirements" / "base.lock")
    differing = []
    for name, wanted in sorted(pins.items()):
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != wanted:
            differing.append(f"{name} {installed} (lock: {wanted})")
    if not pins:
        return _finding("packages", Level.WARN, "no lock file beside the code")
    if not differing:
        shown = ", ".join(f"{name} {pins[name]}" for name in _IMPORTANT if name in pins)
        return _finding("packages", Level.OK, f"{len(pins)} as locked ({shown})")
    shown = ", ".join(differing[:4]) + (f" and {len(differing) - 4} more" if differing[4:] else "")
    broken = any("missing" in item or item.startswith("ray ") for item in differing)
    return _finding("packages", Level.FAIL if broken else Level.WARN, shown, "make install")


def check_compiler() -> Finding:
    """Could llama.cpp be compiled?"""
    missing = [
        name
        for name in (os.environ.get("CC", "cc"), os.environ.get("CXX", "c++"))
        if shutil.which(name.split()[0]) is None
    ]
    if not missing:
        return _finding("compiler", Level.OK, shutil.which(os.environ.get("CXX", "c++")) or "")
    level = Level.WARN if importlib.util.find_spec("llama_cpp") else Level.FAIL
    return _finding(
        "compiler", level, f"missing: {', '.join(missing)}", "apt-get install -y gcc g++ make"
    )


def check_cpu() -> Finding:
    """Which fast instructions does the CPU have?"""
    flags = set(cpu_flags().split())
    fast = [flag for flag in _SPEED_FLAGS if flag in flags]
    cores = f"{os.cpu_count()} CPUs"
    if fast:
        return _finding("cpu", Level.OK, f"{cores}, {' '.join(fast)}")
    if platform.machine() in ("aarch64", "arm64"):
        return _finding("cpu", Level.OK, f"{cores}, {platform.machine()}")
    return _finding("cpu", Level.WARN, f"{cores}, no AVX2: generation will be slow")


def check_native() -> Finding:
    """Is llama.cpp there, and compiled for this CPU?"""
    try:
        wanted = pinned_version()
        installed = importlib.metadata.version("llama-cpp-python")
    except (OSError, importlib.metadata.PackageNotFoundError):
        return _finding("llama.cpp", Level.FAIL, "llama-cpp-python is not installed", "make native")
    # In a process of its own: a wheel for another CPU dies with an illegal instruction.
    result = subprocess.run(
        [sys.executable, "-c", _SYSTEM_INFO],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit {result.returncode}"])[-1]
        return _finding("llama.cpp", Level.FAIL, f"cannot be loaded: {reason}", "make native")
    used = set(re.findall(r"(\w+) = 1", result.stdout))
    unused = unused_instructions(set(cpu_flags().split()), used)
    if unused:
        detail = f"{installed} was compiled without {', '.join(unused)}, which this CPU has"
        return _finding("llama.cpp", Level.WARN, detail, "make native")
    if installed != wanted:
        return _finding("llama.cpp", Level.WARN, f"{installed}, pinned: {wanted}", "make native")
    fast = sorted(name for name in used if name.startswith(("AVX", "NEON", "AMX", "DOTPROD")))
    return _finding("llama.cpp", Level.OK, f"{installed}, uses {' '.join(fast)}")


def check_haproxy() -> Finding:
    """Is the fast ingress there?"""
    binary = find_haproxy()
    if binary is not None:
        return _finding("haproxy", Level.OK, str(binary))
    return _finding("haproxy", Level.WARN, "not on this platform; the plain proxy is used")


def check_shared_memory() -> Finding:
    """Is /dev/shm large enough for Ray's object store?"""
    if not _SHM.is_dir():
        return _finding(str(_SHM), Level.WARN, "absent; Ray falls back to the disk")
    free = shutil.disk_usage(_SHM).free
    if free >= _MIN_SHM_BYTES:
        return _finding(str(_SHM), Level.OK, f"{gib(free)} free")
    return _finding(str(_SHM), Level.WARN, f"{gib(free)} free", "in Docker: --shm-size=1g")


def check_disk() -> Finding:
    """Is there room for logs, events and models?"""
    home = carril_home()
    place = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{gib(free)} free under {place}"
    if free >= _MIN_DISK_BYTES:
        return _finding("disk", Level.OK, detail)
    return _finding("disk", Level.FAIL, detail, "make room, or set CARRIL_HOME to another disk")


def check_models(config: ServeConfig) -> list[Finding]:
    """Are the model files what the config says, and do they fit into memory?"""
    try:
        sizes = check_files(config)
    except ConfigError as error:
        return [
            _finding("models", Level.FAIL, str(error), "restore the file or correct its sha256")
        ]
    total = sum(set(sizes.values()))
    findings = [_finding("models", Level.OK, f"{len(sizes)} files verified, {gib(total)}")]
    need, memory = memory_need(config, sizes), psutil.virtual_memory()
    detail = (
        f"needs about {gib(need.steady_bytes)}, {gib(need.peak_bytes)} while a model is exchanged; "
        f"{gib(memory.available)} of {gib(memory.total)} available"
    )
    if need.steady_bytes > memory.total:
        findings.append(_finding("memory", Level.FAIL, detail, "lower n_ctx, n_slots or the model"))
    elif need.peak_bytes > memory.available:
        findings.append(_finding("memory", Level.WARN, detail))
    else:
        findings.append(_finding("memory", Level.OK, detail))
    return findings


def check_ports(http_port: int) -> Finding:
    """Are the ports free, or ours?"""
    record = ClusterRecord.load(carril_home())
    if record is not None and record.is_alive():
        return _finding("ports", Level.OK, f"carril answers at {record.http_url}")
    ports = (http_port, 8265, 6379)
    taken = [f"{port}: {owner}" for port in ports if (owner := port_owner(port)) is not None]
    if not taken:
        return _finding("ports", Level.OK, f"{', '.join(map(str, ports))} free")
    fix = "stop it, or choose others with carril up --port --dashboard-port --ray-port"
    return _finding("ports", Level.FAIL, "taken: " + "; ".join(taken), fix)


def unused_instructions(cpu: set[str], compiled: set[str]) -> list[str]:
    """Return instruction sets that the CPU has and llama.cpp was compiled without.

    Args:
        cpu: Flags as in `/proc/cpuinfo`.
        compiled: Names as `llama_print_system_info` prints them.
    """
    pairs = (
        ("avx2", "AVX2"),
        ("fma", "FMA"),
        ("avx512f", "AVX512"),
        ("avx512_vnni", "AVX512_VNNI"),
    )
    return [flag for flag, name in pairs if flag in cpu and name not in compiled]


def locked_versions(lock: Path) -> dict[str, str]:
    """Return name and version of every pin of a lock file; empty if it is absent."""
    if not lock.is_file():
        return {}
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", lock.read_text("utf-8"), re.MULTILINE)
    return dict(pins)


def _finding(name: str, level: Level, detail: str, fix: str | None = None) -> Finding:
    return Finding(name=name, level=level, detail=detail, fix=fix)
