"""On what, and with what, something was measured."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("ray", "llama-cpp-python", "numpy", "fastapi", "uvicorn")


def hardware() -> dict[str, Any]:
    """Return the CPU, its cores, the memory and the kernel."""
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    }


def usable_cpus() -> int:
    """Return the CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def load() -> list[float]:
    """Return the load average over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def versions() -> dict[str, Any]:
    """Return the commit, whether files differ from it, and the versions that decide speed."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "llama_cpp_system_info": llama_cpp_system_info(),
    }


@functools.cache
def llama_cpp_system_info() -> str | None:
    """Return which CPU features the compiled llama.cpp uses; None where it is not installed.

    Asked in a process of its own: the library sets thread pools up when it is loaded.
    """
    code = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    lines = done.stdout.strip().splitlines()
    return lines[-1] if done.returncode == 0 and lines else None


def cpu_name() -> str:
    """Return the model of the first CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
