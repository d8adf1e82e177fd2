"""The programs that carril is measured against, built from the source that it is built from.

    python -m tests.benchmarks.peers

prints the folder of `llama-server`, `llama-bench` and `llama-batched-bench`, building them when
this machine has not yet (with cmake, ninja and a C++ compiler; ten minutes on two cores). They use
the CPU's own instructions, as carril's engine does, and stay outside the tree.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cluster.native_build import BuildError, BuildKey, build_key
from cluster.terminal_progress import Progress
from tests.benchmarks.cache import bench_cache, exclusive
from tests.benchmarks.source import PeerError, source_tree

PROGRAMS = ("llama-server", "llama-bench", "llama-batched-bench")
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_UI=OFF",  # it would be downloaded
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
_STEP = re.compile(r"\[(\d+)/(\d+)\]")
_APT_LINE = "apt-get install -y cmake ninja-build g++"
_TAIL_LINES = 15


def peer_key() -> BuildKey:
    """Describe the build that this machine needs.

    Raises:
        PeerError: If there is no compiler.
    """
    try:
        return dataclasses.replace(
            build_key(), cmake_args=" ".join(CMAKE_FLAGS), lean_sha256="", python_abi=""
        )
    except BuildError as error:
        raise PeerError(str(error)) from error


def programs() -> Path:
    """Return the folder of the built programs, building them once per machine.

    Raises:
        PeerError: If tools are missing, or the build failed.
    """
    key = peer_key()
    target = bench_cache() / "peers" / key.name
    with exclusive(target.with_name(f"{target.name}.lock")):
        if not is_complete(target / "bin"):
            build = target / "build"
            configure(source_tree() / "vendor/llama.cpp", build)
            _compile(build)
            keep(build / "bin", target, key)
            shutil.rmtree(build)
    return target / "bin"


def is_complete(folder: Path) -> bool:
    """Return whether every program is there and starts."""
    return all((folder / name).is_file() for name in PROGRAMS) and all(
        _starts(folder / name) for name in PROGRAMS
    )


def configure(source: Path, build: Path) -> None:
    """Run cmake's configuration.

    Raises:
        PeerError: If cmake or ninja are missing, or cmake refuses.
    """
    missing = [name for name in ("cmake", "ninja") if shutil.which(name) is None]
    if missing:
        raise PeerError(f"{' and '.join(missing)} not found. On Debian or Ubuntu: {_APT_LINE}")
    build.mkdir(parents=True, exist_ok=True)
    command = ["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", *CMAKE_FLAGS]
    _run_logged(command, build / "configure.log", Progress("Configuring llama.cpp"))


def keep(binaries: Path, target: Path, key: BuildKey) -> None:
    """Copy built programs and their libraries into the cache; they appear together.

    Raises:
        PeerError: If they are not all there, or do not start.
    """
    if not is_complete(binaries):
        raise PeerError(f"{binaries} does not hold {', '.join(PROGRAMS)}, or they do not start")
    scratch = target / "bin.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for file in sorted(binaries.iterdir()):
        if file.name in PROGRAMS or ".so" in file.name:
            # With links followed: a folder of its own must not depend on the build folder.
            shutil.copy2(file, scratch / file.name, follow_symlinks=True)
    shutil.rmtree(target / "bin", ignore_errors=True)
    scratch.replace(target / "bin")
    text = json.dumps(dataclasses.asdict(key), indent=1)
    (target / "key.json").write_text(text, encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which programs of a folder find its libraries.

    Without the variables that carril sets for its own engine: a peer runs as its users run it.
    """
    known = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "LLAMA_"))}
    known["LD_LIBRARY_PATH"] = str(folder)
    return known


def version(folder: Path) -> str:
    """Return what `llama-server --version` says."""
    done = subprocess.run(
        [str(folder / "llama-server"), "--version"],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return (done.stderr + done.stdout).strip().splitlines()[0]


def _starts(program: Path) -> bool:
    done = subprocess.run(
        [str(program), "--help"],
        env=environment(program.parent),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )
    return done.returncode in (0, 1)  # some of them end with 1 after showing their options


def _compile(build: Path) -> None:
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    command = ["cmake", "--build", str(build), "-j", jobs, "--target", *PROGRAMS]
    progress = Progress("Compiling llama.cpp's programs")
    progress.say(f"Compiling llama.cpp's programs for this CPU, once.\n  log: {build}/build.log")
    _run_logged(command, build / "build.log", progress)


def _run_logged(command: list[str], log_path: Path, progress: Progress) -> None:
    # SOURCE_DATE_EPOCH asks for a reproducible build, which turns the CPU's own instructions off.
    env = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        tail: list[str] = []
        for line in process.stdout or ():
            log.write(line)
            tail = [*tail[1 - _TAIL_LINES :], line]
            step = _STEP.search(line[:40])
            if step:
                progress.update(int(step[1]), int(step[2]))
        if process.wait() != 0:
            raise PeerError(
                f"{' '.join(command[:2])} failed (exit {process.returncode}); full log: "
                f"{log_path}\n{''.join(tail)}"
            )
    progress.finish("... done")


def main(argv: list[str] | None = None) -> int:
    """Build what is missing and print the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--take", type=Path, metavar="FOLDER", help="keep programs built with the same flags"
    )
    options = parser.parse_args(argv)
    try:
        if options.take:
            key = peer_key()
            keep(options.take, bench_cache() / "peers" / key.name, key)
        sys.stdout.write(f"{programs()}\n")
    except PeerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
