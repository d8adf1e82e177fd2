"""Compile llama-cpp-python for this machine, once.

The package is published as source. A generic binary would leave half of the speed on the table, so
it is compiled with the CPU's own instructions, without the multimodal and command-line parts that
carril never loads, and the wheel is kept outside the tree: every clone on the machine shares it.

Standard library only: the Makefile calls `python -m cluster.native_build` before anything else is
installed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.terminal_progress import Progress

PACKAGE = "llama-cpp-python"
_ROOT = Path(__file__).resolve().parent.parent
_LEAN_CMAKE = Path(__file__).with_name("native_lean.cmake")
_STEP = re.compile(r"\[(\d+)/(\d+)\]")
_TAIL_LINES = 25
_APT_LINE = "apt-get install -y gcc g++ make"


class BuildError(Exception):
    """The wheel could not be built; the message says what to do."""


@dataclass(frozen=True, slots=True)
class BuildKey:
    """Everything that makes one compiled wheel differ from another."""

    version: str
    python_abi: str
    machine: str
    cpu_flags_sha256: str
    compilers: str
    cmake_args: str
    lean_sha256: str

    @property
    def name(self) -> str:
        """Directory of the wheel in the cache."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.version}-{self.machine}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def pinned_version(pyproject: Path = _ROOT / "pyproject.toml") -> str:
    """Return the version of llama-cpp-python, which the `cpu` extra alone pins.

    Raises:
        BuildError: If the extra does not pin exactly one version.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    for requirement in project["optional-dependencies"]["cpu"]:
        name, _, version = requirement.partition("==")
        if name.strip() == PACKAGE and version:
            return str(version.strip())
    raise BuildError(f"{pyproject}: the extra 'cpu' does not pin {PACKAGE}==VERSION")


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where wheels are kept: outside any clone, shared by all of them."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "carril" / "wheels"


def cmake_args(environ: Mapping[str, str] = os.environ) -> str:
    """Return the CMake arguments; the caller's own CMAKE_ARGS come last and win."""
    own = (
        "-DGGML_NATIVE=ON",
        "-DLLAVA_BUILD=OFF",
        # The package forces the `common` library on and never loads it; see the file.
        f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={_LEAN_CMAKE}",
    )
    return " ".join([*own, environ.get("CMAKE_ARGS", "")]).strip()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the instruction sets of the first CPU, sorted; elsewhere the processor's name."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"flags", "Features"}:
                return " ".join(sorted(value.split()))
    return platform.processor() or platform.machine()


def build_key(environ: Mapping[str, str] = os.environ) -> BuildKey:
    """Describe the wheel that this machine needs.

    Raises:
        BuildError: If there is no C or C++ compiler.
    """
    # The path of the CMake file differs between clones, its content does not.
    arguments = cmake_args(environ).replace(str(_LEAN_CMAKE), _LEAN_CMAKE.name)
    return BuildKey(
        version=pinned_version(),
        python_abi=str(sysconfig.get_config_var("SOABI") or platform.python_version()),
        machine=platform.machine(),
        cpu_flags_sha256=hashlib.sha256(cpu_flags().encode()).hexdigest(),
        compilers=" | ".join(
            _compiler_version(environ.get(variable, default), package)
            for variable, default, package in (("CC", "cc", "gcc"), ("CXX", "c++", "g++"))
        ),
        cmake_args=arguments,
        lean_sha256=hashlib.sha256(_LEAN_CMAKE.read_bytes()).hexdigest(),
    )


def build_wheel(key: BuildKey, *, cache: Path) -> Path:
    """Return the wheel for `key`, building it if no other clone has.

    Raises:
        BuildError: If pip or the compiler failed.
    """
    target = cache / key.name
    target.mkdir(parents=True, exist_ok=True)
    with _exclusive(target / "lock"):
        wheels = sorted(target.glob("*.whl"))
        if wheels:
            return wheels[0]
        return _compile(key, target)


def install_wheel(wheel: Path, key: BuildKey) -> None:
    """Install a wheel into this environment; its dependencies come from the lock."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--force-reinstall", str(wheel)], check=True)
    _marker().write_text(json.dumps(asdict(key), indent=1), encoding="utf-8")


def is_installed(key: BuildKey) -> bool:
    """Return whether this environment already has the wheel of `key`."""
    if importlib.util.find_spec("llama_cpp") is None:
        return False
    try:
        recorded = json.loads(_marker().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(recorded == asdict(key))


def main(argv: list[str] | None = None) -> int:
    """Build (and with `--install` install) the wheel; print its path."""
    parser = argparse.ArgumentParser(prog="python -m cluster.native_build", description=__doc__)
    parser.add_argument("--install", action="store_true", help="install it into this Python")
    options = parser.parse_args(argv)
    try:
        key = build_key()
        if options.install and is_installed(key):
            return 0
        wheel = build_wheel(key, cache=cache_dir())
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    if options.install:
        install_wheel(wheel, key)
    sys.stdout.write(f"{wheel}\n")
    return 0


def _compile(key: BuildKey, target: Path) -> Path:
    log_path = target / "build.log"
    progress = Progress(f"Compiling {PACKAGE} {key.version}")
    progress.say(
        f"Compiling {PACKAGE} {key.version} for this CPU: a few minutes, once per machine."
        f"\n  log: {log_path}"
    )
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    # SOURCE_DATE_EPOCH asks for a reproducible build, which turns the CPU's own instructions off.
    environment["CMAKE_ARGS"] = cmake_args()
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
        command += ["--no-binary", PACKAGE, "--wheel-dir", scratch, f"{PACKAGE}=={key.version}"]
        returncode = _run_logged(command, environment, log_path, progress)
        built = sorted(Path(scratch).glob("*.whl"))
        if returncode != 0 or not built:
            raise BuildError(_failure(log_path, returncode))
        wheel = target / built[0].name
        built[0].replace(wheel)
    (target / "key.json").write_text(json.dumps(asdict(key), indent=1), encoding="utf-8")
    progress.finish(f"Compiled {wheel.name}")
    return wheel


def _run_logged(
    command: list[str], environment: dict[str, str], log_path: Path, progress: Progress
) -> int:
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 (PIPE was asked for)
        for line in process.stdout:
            log.write(line)
            step = _STEP.search(line[:40])
            if step:
                progress.update(int(step[1]), int(step[2]))
        return process.wait()


def _failure(log_path: Path, returncode: int) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    tail = "\n".join(f"    {line[:160]}" for line in lines[-_TAIL_LINES:])
    hint = next((text for mark, text in _HINTS if any(mark in line for line in lines)), "")
    return f"{PACKAGE} did not build (exit {returncode}). {hint}\n{tail}\n  full log: {log_path}"


_HINTS = (
    ("No space left on device", "The disk is full."),
    ("Killed", "The compiler was killed: too little memory? Try CMAKE_BUILD_PARALLEL_LEVEL=1."),
    ("No matching distribution", "The package index was not reachable, or lacks this version."),
    ("NewConnectionError", "The package index was not reachable."),
    ("CMAKE_CXX_COMPILER", f"The C++ compiler does not work. On Debian: {_APT_LINE}"),
)


def _compiler_version(command: str, package: str) -> str:
    parts = command.split()
    if not parts or shutil.which(parts[0]) is None:
        raise BuildError(
            f"{command!r} was not found: compiling {PACKAGE} needs a C and a C++ compiler. "
            f"On Debian or Ubuntu: {_APT_LINE} (missing: {package}). "
            "Or set CC and CXX to the compilers you have."
        )
    result = subprocess.run([*parts, "--version"], capture_output=True, text=True, check=False)
    return (result.stdout.splitlines() or [command])[0]


def _marker() -> Path:
    return Path(sys.prefix) / "carril-native.json"


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"another process is compiling {PACKAGE}; waiting for it\n")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
